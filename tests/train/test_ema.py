"""The average of the weights: what it is, that it is kept beside them, and that a run goes on with it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train_runs import TINY, curve, launch, overrides, same_results, stop_at, train

import vlm
from train import checkpoint
from train.fit import main
from train.optim.ema import Average, averaged
from vlm.command import status

EMA = "optim.ema=0.9"


@pytest.fixture(scope="module")
def with_ema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("ema") / "run", EMA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_formulas(dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2, dtype=dtype)
    average = Average(model, 0.5)
    expected = model.weight.detach().double()
    for n in range(20):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert average.weights["weight"].dtype == torch.float32
    torch.testing.assert_close(average.weights["weight"].double(), expected, rtol=1e-6, atol=1e-6)


def test_the_model_has_it_within_and_its_own_weights_after() -> None:
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    model.bias.requires_grad_(False)
    average = Average(model, 0.5)
    own = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    with averaged(model, average.weights):
        assert torch.equal(model.weight, own) and model.weight.dtype == torch.bfloat16
    assert torch.equal(model.weight, own + 1) and list(average.weights) == ["weight"]


def test_the_weights_are_those_of_a_run_without(with_ema: Path, finished: Path) -> None:
    for file in ("model/model.safetensors", "tokenizer.json"):
        assert (with_ema / file).read_bytes() == (finished / file).read_bytes()
    assert not (finished / "model_ema").exists() and not list(finished.rglob(checkpoint.AVERAGE))


def test_it_is_measured_saved_and_read(with_ema: Path, tmp_path: Path) -> None:
    for name in ("loss", "loss_blank", "loss_blind"):
        of_average = curve(with_ema, f"valid/{name}_ema", "text")
        assert len(of_average) == len(curve(with_ema, f"valid/{name}", "text")) > 0
    newest = sorted((with_ema / "checkpoints" / "2-tune").glob("step-*"))[-1]
    kept, last = load_file(newest / checkpoint.AVERAGE), load_file(newest / checkpoint.WEIGHTS)
    model, _ = vlm.load(with_ema / "model_ema")
    state = model.state_dict()
    assert kept.keys() <= state.keys() and any(not torch.equal(kept[name], last[name]) for name in kept)
    assert all(torch.equal(state[name], kept.get(name, last[name])) for name in state)
    train(tmp_path / "next", "budget_scale=0.1e-6", init_from=str(with_ema / "model_ema"))


def test_killed_in_each_stage_it_ends_the_same(with_ema: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [TINY, "--set", *overrides(run, EMA)]
    for stage, step in (("text", 7), ("tune", 13)):
        assert stop_at(launch(argv, log), run, stage, step) == -signal.SIGKILL
    process = launch(argv, log)
    process.join(60)
    assert process.exitcode == 0 and same_results(with_ema, run)


def test_a_finished_stage_gives_its_average_again(with_ema: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(with_ema, run)
    shutil.rmtree(run / "model_ema")
    train(run, EMA)
    assert same_results(with_ema, run)


def test_its_charts_are_evaluated_beside(tmp_path: Path) -> None:
    run = train(tmp_path / "run", EMA, "budget_scale=0.05e-6", "eval.charts=6", "eval.reasoned=2")
    for name in ("charts", "charts_ema"):
        assert (run / "eval" / name / "summary.json").is_file()
    assert (run / "report.html").is_file()


def test_a_damaged_average_is_found(with_ema: Path, tmp_path: Path) -> None:
    path = tmp_path / "step-00000001"
    shutil.copytree(sorted((with_ema / "checkpoints" / "0-text").glob("step-*"))[-1], path)
    data = bytearray((path / checkpoint.AVERAGE).read_bytes())
    data[-1] ^= 1
    (path / checkpoint.AVERAGE).write_bytes(data)
    assert checkpoint.damage(path) == "ema.safetensors does not have its SHA-256"


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "often"])
def test_a_value_that_cannot_be_is_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main([TINY, "--set", f"optim.ema={value}"])) == 2
    error = capsys.readouterr().err
    assert "optim.ema" in error and error.count("\n") == 1
