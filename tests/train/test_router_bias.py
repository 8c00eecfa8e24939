"""The routers' balance biases in training: when they move, by what, and that a run with them is like any other."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_runs import metrics, same_results, train

from train.module import VLMModule

RATE = 0.01
SHORT = ["budget_scale=0.15e-6", "run.checkpoint_every=1", "run.keep=99", f"model.decoder.balance_bias_rate={RATE}"]


def biases(run: Path, stage: str) -> list[torch.Tensor]:
    """[L, E] after each step."""
    steps = sorted((run / "checkpoints" / stage).glob("step-*"))
    weights = [load_file(step / "model.safetensors") for step in steps]
    return [torch.stack([w[n] for n in sorted(w) if n.endswith("router.bias")]) for w in weights]


def shares(run: Path, stage: str, step: int) -> torch.Tensor:
    """[L, E] of the step's pairs, as the log has them."""
    rows = {name: value for s, n, _, name, value in metrics(run) if (s, n) == (stage, step) and name.endswith("_share")}
    return torch.tensor([[rows[f"router/layer{layer}/expert{e}_share"] for e in range(4)] for layer in range(2)])


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("biased") / "run", *SHORT)


def test_each_step_moves_them_by_the_rate_towards_an_even_load(biased: Path) -> None:
    for stage, start in (("text", torch.zeros(2, 4)), ("tune", biases(biased, "0-text")[-1])):
        trail = [start, *biases(biased, f"{('text', 'align', 'tune').index(stage)}-{stage}")]
        assert len(trail) > 5
        for step, (before, after) in enumerate(pairwise(trail), start=1):
            torch.testing.assert_close(after - before, RATE * (0.25 - shares(biased, stage, step)).sign())


def test_a_frozen_decoder_keeps_them(biased: Path) -> None:
    last = biases(biased, "0-text")[-1]
    assert last.any() and all(torch.equal(bias, last) for bias in biases(biased, "1-align"))


def test_a_resumed_run_ends_the_same(biased: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(biased, run)
    for path in sorted((run / "checkpoints" / "2-tune").glob("step-*"))[3:]:
        shutil.rmtree(path)
    train(run, *SHORT)
    assert same_results(biased, run)


def test_micro_batches_move_them_once_a_step_by_the_whole_steps_load(tmp_path: Path) -> None:
    more = [*SHORT, "model.decoder.balance_loss=0.0", "model.decoder.router_z_loss=0.0"]
    one = train(tmp_path / "one", *more)
    four = train(tmp_path / "four", *more, *(f"stages.{name}.micro_batches=4" for name in ("text", "align", "tune")))
    assert torch.equal(biases(one, "0-text")[-1], biases(four, "0-text")[-1])


def test_a_step_that_is_left_out_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = VLMModule.training_step

    def poisoned(module: VLMModule, batch: object, index: int) -> torch.Tensor:
        loss = step(module, batch, index)
        return loss * float("nan") if module.global_step == 2 and module.stage.name == "text" else loss

    monkeypatch.setattr(VLMModule, "training_step", poisoned)
    first, second, third, fourth, *_ = biases(train(tmp_path / "run", *SHORT), "0-text")
    assert torch.equal(second, third) and not torch.equal(first, second) and not torch.equal(third, fourth)
