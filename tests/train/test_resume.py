"""A run that was stopped anywhere, however rudely, ends as one that was not."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from train_runs import TINY, config, curve, launch, metrics, overrides, same_results, stop_at, train

from train import checkpoint
from train.fit import AFTER_INTERRUPT, main
from train.module import VLMModule
from train.optim.schedule import schedule_factor
from vlm.command import status

STAGES = ("text", "align", "tune")


def stage_dir(run: Path, stage: str) -> Path:
    return run / "checkpoints" / f"{STAGES.index(stage)}-{stage}"


def newest(run: Path, stage: str) -> Path:
    return sorted(stage_dir(run, stage).glob("step-*"))[-1]


def test_killed_in_each_stage_it_ends_the_same(finished: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [TINY, "--set", *overrides(run)]
    moments = [("text", 3), ("align", 10), ("tune", 17)]
    for stage, step in moments:
        assert stop_at(launch(argv, log), run, stage, step) == -signal.SIGKILL
    process = launch(argv, log)
    process.join(60)
    assert process.exitcode == 0
    assert same_results(finished, run)
    assert "going on from step" in log.read_text()


def test_muon_goes_on_to_the_bit(tmp_path: Path) -> None:
    reference = train(tmp_path / "reference", "optim.kind=muon")
    run = tmp_path / "run"
    argv = [TINY, "--set", *overrides(run, "optim.kind=muon")]
    for stage, step in (("text", 7), ("tune", 13)):
        assert stop_at(launch(argv, tmp_path / "log"), run, stage, step) == -signal.SIGKILL
    process = launch(argv, tmp_path / "log")
    process.join(60)
    assert process.exitcode == 0 and same_results(reference, run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_five_random_moments_it_ends_the_same(seed: int, tmp_path: Path) -> None:
    reference = train(tmp_path / "reference", f"run.seed={seed}")
    run, random_ = tmp_path / "run", random.Random(seed)
    argv = [TINY, "--set", *overrides(run, f"run.seed={seed}")]
    for moment in sorted(random_.sample(range(1, 57), 5)):
        stage, step = STAGES[moment // 19], moment % 19 + 1
        stop_at(launch(argv, tmp_path / "log"), run, stage, step, delay=random_.uniform(0, 0.05))
    process = launch(argv, tmp_path / "log")
    process.join(60)
    assert process.exitcode == 0 and same_results(reference, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_leaves_a_checkpoint_of_that_step(number: int, finished: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [TINY, "--set", *overrides(run, "run.checkpoint_every=1000")]
    assert stop_at(launch(argv, log), run, "align", 5, number) == 130
    assert list(stage_dir(run, "align").glob("step-*"))
    assert "the same command goes on" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    train(run, "run.checkpoint_every=1000")
    assert same_results(finished, run)


def test_a_schedulers_signal_outside_training_ends_as_ctrl_c(monkeypatch, capsys) -> None:
    monkeypatch.setattr("train.fit.fit", lambda config: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert status(lambda: main([TINY]), AFTER_INTERRUPT) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the same command goes on" in capsys.readouterr().err


def shortened(finished: Path, run: Path) -> Path:
    """A copy of the finished run as it was at step 16 of the last stage."""
    shutil.copytree(finished, run)
    shutil.rmtree(newest(run, "tune"))
    return run


@pytest.mark.parametrize("damage", ["cut", "flipped", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    bad = newest(run, "tune")
    if damage == "cut":
        os.truncate(bad / "model.safetensors", 1000)
    elif damage == "flipped":
        data = bytearray((bad / "state.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (bad / "state.pt").write_bytes(data)
    else:
        (bad / "manifest.json").unlink()
    train(run)
    assert [r.message for r in caplog.records if f"checkpoint {bad} is damaged" in r.message]
    assert same_results(finished, run)


def test_a_damaged_checkpoint_does_not_count_as_kept(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    bad = newest(run, "tune")
    os.truncate(bad / "state.pt", 10)
    log = tmp_path / "log"
    process = launch([TINY, "--set", *overrides(run, "run.keep=1", "run.checkpoint_every=1")], log)
    stop_at(process, run, "tune", checkpoint.step_of(bad) - 1, delay=0.2)
    assert checkpoint.newest(stage_dir(run, "tune")) is not None


def test_killed_between_write_and_rename(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shortened(finished, tmp_path / "run")
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name.startswith("step-"):
            raise MemoryError("as if killed here")
        rename(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(MemoryError):
        train(run)
    assert list(stage_dir(run, "tune").glob(".step-*.new"))
    monkeypatch.undo()
    train(run)
    assert same_results(finished, run)


@pytest.mark.parametrize("torn", ["tune,17,87", "tune,17,8704,train/loss,1.2", "tune,18,9216,train/loss,3.5\ntune"])
def test_what_was_logged_after_the_checkpoint_is_dropped(torn: str, finished: Path, tmp_path: Path) -> None:
    run = shortened(finished, tmp_path / "run")
    with (run / "metrics.csv").open("a") as file:
        file.write(torn)
    train(run)
    assert same_results(finished, run)


def test_nothing_is_trained_again_when_nothing_changed(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    monkeypatch.setattr("train.fit.Trainer", None)
    train(run)
    assert same_results(finished, run)


def test_killed_between_stages_the_closed_one_stays_closed(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(stage_dir(run, "tune"))
    shutil.rmtree(run / "model")
    before = newest(run, "align").stat().st_mtime_ns
    train(run)
    assert newest(run, "align").stat().st_mtime_ns == before
    assert same_results(finished, run)


def test_a_raised_budget_goes_on_at_the_rate_of_the_longer_schedule(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    steps = len(curve(finished, "train/loss", "tune"))
    longer_config = config(run, "stages.tune.tokens=0.03e12")
    train(run, "stages.tune.tokens=0.03e12")
    longer = longer_config.steps(longer_config.stages[2])
    assert longer > steps
    assert [r for r in metrics(run) if r[1] <= steps or r[0] != "tune"] == metrics(finished)
    factor = schedule_factor(longer_config.stages[2].schedule, longer)
    rates = curve(run, "lr/decoder/decay", "tune")
    assert rates[steps:] == pytest.approx([longer_config.optim.lr * factor(n) for n in range(steps + 1, longer + 1)])
    assert len(curve(run, "train/loss", "tune")) == longer


def test_the_first_step_after_a_raised_budget_has_its_schedules_rate(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    seen: list[float] = []
    clip = VLMModule.configure_gradient_clipping

    def spy(self, optimizer, **options) -> None:
        seen.append(optimizer.param_groups[0]["lr"])
        clip(self, optimizer, **options)

    monkeypatch.setattr(VLMModule, "configure_gradient_clipping", spy)
    train(run, "stages.tune.tokens=0.03e12")
    longer = config(run, "stages.tune.tokens=0.03e12")
    factor = schedule_factor(longer.stages[2].schedule, longer.steps(longer.stages[2]))
    assert seen[0] == pytest.approx(longer.optim.lr * factor(len(curve(finished, "train/loss", "tune"))))


def test_goes_on_in_the_middle_of_an_accumulating_stage(tmp_path: Path) -> None:
    more = ["stages.text.micro_batches=4", "budget_scale=0.2e-6", "run.checkpoint_every=3"]
    whole = train(tmp_path / "whole", *more)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(stage_dir(run, "align"))
    shutil.rmtree(stage_dir(run, "tune"))
    shutil.rmtree(newest(run, "text"))
    train(run, *more)
    assert same_results(whole, run)


def test_workers_do_not_change_what_is_trained(finished: Path, tmp_path: Path) -> None:
    run = shortened(finished, tmp_path / "run")
    train(run, "run.workers=2")
    assert same_results(finished, run)
