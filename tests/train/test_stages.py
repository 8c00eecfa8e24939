"""What each stage learns and leaves alone, and where a run starts from."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_runs import config, curve, metrics, same_results, train

import vlm
from train.module import NotFinite, VLMModule
from vlm.sample import Sample, Text

ONE = ["budget_scale=0.15e-6", "run.checkpoint_every=1", "run.keep=99"]


def last(run: Path, index: int) -> dict[str, torch.Tensor]:
    stage = next((run / "checkpoints").glob(f"{index}-*"))
    return load_file(sorted(stage.glob("step-*"))[-1] / "model.safetensors")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_each_stage_changes_its_groups_and_nothing_else(finished: Path) -> None:
    text, align, tune = (last(finished, i) for i in range(3))
    assert changed(text, align) == {"encoder", "resampler", "fusion"}
    assert changed(align, tune) == {"encoder", "resampler", "fusion", "decoder"}


def test_align_leaves_the_text_logits_equal(finished: Path) -> None:
    model, processor = vlm.load(finished)
    batch = processor([Sample((Text("def f(x):\n    return x"),))])
    model.load_state_dict(last(finished, 0))
    before = model(batch).logits
    model.load_state_dict(last(finished, 1))
    assert torch.equal(before, model(batch).logits)


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(finished: Path, tmp_path: Path) -> None:
    assert same_results(finished, train(tmp_path / "same"))
    other = train(tmp_path / "other", "run.seed=1")
    assert curve(other, "train/loss") != curve(finished, "train/loss")
    assert changed(last(finished, 2), last(other, 2))


def test_held_out_loss_is_measured_with_and_without_the_image(finished: Path) -> None:
    steps = [row[1] for row in metrics(finished) if row[0] == "tune" and row[3] == "valid/loss"]
    assert steps == [9, 18, 20]
    assert curve(finished, "valid/loss", "tune") != curve(finished, "valid/loss_blank", "tune")


def test_init_from_takes_weights_and_vocabulary(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    rate = "optim.lr=1.0e-20"  # the first step leaves all as it was
    run = train(tmp_path / "run", *ONE, rate, "run.seed=5", init_from=str(finished))
    assert (run / "tokenizer.json").read_bytes() == (finished / "tokenizer.json").read_bytes()
    assert not changed(load_file(finished / "model" / "model.safetensors"), last(run, 0))
    assert "starts anew" not in capfd.readouterr().err


def test_a_group_of_another_shape_starts_anew_and_that_is_said(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    more = ["optim.lr=1.0e-20", "model.encoder.depth=2"]
    run = train(tmp_path / "run", *ONE, *more, init_from=str(finished))
    said = [line for line in capfd.readouterr().err.splitlines() if "starts anew" in line]
    assert len(said) == 1 and said[0].startswith("encoder starts anew: ")
    before, after = load_file(finished / "model" / "model.safetensors"), last(run, 0)
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("encoder."))


def test_a_model_of_which_nothing_fits_is_refused(finished: Path, tmp_path: Path) -> None:
    decoder = (
        "{vocab_size: 512, dim: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1, num_experts: 2, top_k: 1, expert_dim: 16}"
    )
    resampler = "{dim: 16, num_latents: 9, depth: 1, num_heads: 2, ffn_dim: 32}"
    more = [f"model.decoder={decoder}", f"model.resampler={resampler}", "model.encoder.width=16"]
    with pytest.raises(ValueError, match=r"model\.decoder differs from"):
        train(tmp_path / "run", *more, init_from=str(finished))
    assert not (tmp_path / "run").exists()


def test_init_from_a_place_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a run nor a model"):
        train(tmp_path / "run", init_from=str(tmp_path))


class Poison:
    """Makes the loss or the gradient of some steps not finite."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: range, where: str) -> None:
        step = VLMModule.training_step

        def poisoned(module: VLMModule, batch: object, index: int) -> torch.Tensor:
            loss = step(module, batch, index)
            if module.global_step in steps and module.stage.name == "text":
                if where == "loss":
                    module.figures["loss"] = float("nan")
                    return loss * float("nan")
                weight = next(module.model.decoder.parameters())
                return loss + (weight * 0).sum().sqrt()  # the derivative of a root at 0 is not finite
            return loss

        monkeypatch.setattr(VLMModule, "training_step", poisoned)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_left_out_and_counted(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Poison(monkeypatch, range(2, 4), where)
    run = train(tmp_path / "run", *ONE, "optim.ema=0.9")
    directory = run / "checkpoints" / "0-text"
    weights = [load_file(directory / f"step-{n:08d}" / "model.safetensors") for n in range(1, 6)]
    assert not changed(weights[1], weights[2]) and not changed(weights[2], weights[3])
    assert changed(weights[0], weights[1]) and changed(weights[3], weights[4])
    states = [torch.load(directory / f"step-{n:08d}" / "state.pt", weights_only=True) for n in (2, 4)]
    moments = [state["optimizer_states"][0] for state in states]
    for key, value in moments[0]["state"].items():
        assert all(torch.equal(value[name], moments[1]["state"][key][name]) for name in value)
    assert [state["average"]["steps"] for state in states] == [2, 2]
    assert curve(run, "train/skipped_steps", "text")[:5] == [0, 0, 1, 2, 2]


def test_too_many_in_a_row_stop_the_run_and_it_can_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poison(monkeypatch, range(10, 99), "loss")
    with pytest.raises(NotFinite, match=r"stage 'text' stopped at step .*: 5 steps in a row") as caught:
        train(tmp_path / "run")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    shutil.rmtree(sorted((tmp_path / "run" / "checkpoints" / "0-text").glob("step-*"))[-1])  # made in the bad stretch
    assert same_results(finished, train(tmp_path / "run"))


def test_micro_batches_do_not_change_the_loss(tmp_path: Path) -> None:
    """The router's losses are means over a micro-batch, by design: they are left out here."""
    more = ["model.decoder.balance_loss=0.0", "model.decoder.router_z_loss=0.0", "budget_scale=0.3e-6"]
    one = train(tmp_path / "one", *more)
    four = train(tmp_path / "four", *more, *(f"stages.{name}.micro_batches=4" for name in ("text", "align", "tune")))
    for figure in ("train/tokens", "train/learnt"):
        assert curve(four, figure) == curve(one, figure)
    assert curve(four, "train/loss") == pytest.approx(curve(one, "train/loss"), rel=1e-4)  # 1e-7 but for such a token as below
    router = {row[3] for row in metrics(one) if row[3].startswith("router/")}
    for figure in router:
        assert curve(four, figure) == pytest.approx(curve(one, figure), abs=2e-3)  # a token at the edge between two experts


def test_used_up_data_ends_a_stage_early_and_that_is_said(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    more = ["sources.code.epochs=0.2", "sources.tables.epochs=0.02", "stages.text.tokens=1.0e13", "run.checkpoint_every=50"]
    run = train(tmp_path / "run", *more)
    said = capfd.readouterr().err
    losses = curve(run, "train/loss", "text")
    assert f"used up after {len(losses)} of 9,766 steps" in said and min(losses) > 0
    assert len(curve(run, "train/loss", "tune")) == 20
    before = (run / "metrics.csv").read_text()
    train(run, *more)  # and is not gone on with
    assert (run / "metrics.csv").read_text() == before


def test_bad_samples_are_skipped_counted_and_the_count_survives_a_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    write_shards(data)
    shards = "{kind: shards, path: train-*.tar}"
    more = [f"data_root={data}", f"sources.charts={shards}", "budget_scale=0.3e-6", "run.checkpoint_every=5"]
    run = train(tmp_path / "run", *more)
    counts = curve(run, "skipped/charts/broken media", "align")
    assert counts and counts == sorted(counts) and counts[-1] > 3
    assert any("is cut off" in r.message for r in caplog.records if r.levelno == logging.WARNING)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for stale in (sorted((again / "checkpoints" / "1-align").glob("step-*"))[-1], again / "checkpoints" / "2-tune"):
        shutil.rmtree(stale)
    assert same_results(run, train(again, *more))


def write_shards(folder: Path) -> None:
    """Two shards of captions: every fifth picture is broken, and the second shard is cut in the middle."""
    import io

    import PIL.Image

    from datasets.shards import ShardWriter
    from vlm.sample import Image

    with ShardWriter(folder, "train", max_samples=30) as writer:
        for i in range(60):
            buffer = io.BytesIO()
            PIL.Image.new("RGB", (32, 32), (4 * i, 0, 0)).save(buffer, "PNG")
            picture = b"\x89PNG broken" if i % 5 == 0 else buffer.getvalue()
            writer.write(Sample((Image(picture), Text(f"a red of {4 * i}")), key=f"s{i}", source="train"))
    second = folder / "train-000001.tar"
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2 + 100])


def test_summary_of_this_run_is_what_the_files_say(finished: Path) -> None:
    saved = json.loads((finished / "model" / "config.json").read_text())
    assert saved["model"]["decoder"]["dim"] == config(finished).model.decoder.dim
