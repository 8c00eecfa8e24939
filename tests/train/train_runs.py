"""Runs of `configs/tiny.yaml`, shortened: in this process, or in one that may be killed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from eval import cli
from train import fit as command
from train.config import Config, read_config

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "configs" / "tiny.yaml")
SHORT = [
    "budget_scale=0.5e-6",
    "eval.charts=0",
    "eval.tables=0",
    "run.checkpoint_every=4",
    "run.log_every=1",
    "validation.every=9",
]

Row = tuple[str, int, int, str, float]


def overrides(directory: Path, *more: str) -> list[str]:
    return [*SHORT, f"run.dir={directory}", *more]


def config(directory: Path, *more: str) -> Config:
    return read_config(TINY, overrides(directory, *more))


def train(directory: Path, *more: str, init_from: str | None = None) -> Path:
    """A whole run in this process."""
    return command.fit(config(directory, *more), init_from)


def metrics(directory: Path) -> list[Row]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [
            (stage, int(step), int(tokens), name, float(value))
            for stage, step, tokens, name, value in list(csv.reader(file))[1:]
        ]


def curve(directory: Path, name: str, stage: str | None = None) -> list[float]:
    return [value for s, _, _, n, value in metrics(directory) if n == name and stage in (None, s)]


def same_results(a: Path, b: Path) -> bool:
    """Metrics, final model and the last checkpoint of every stage, with their averages where one is kept, bit for bit."""
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    weights = [Path(f"{model}/model.safetensors") for model in ("model", "model_ema") if (a / model).exists()]
    for stage in sorted((a / "checkpoints").iterdir()):
        newest = sorted(stage.glob("step-*"))[-1]
        weights += [file.relative_to(a) for file in newest.glob("*.safetensors")]
    for file in weights:
        assert (a / file).read_bytes() == (b / file).read_bytes(), file
    return True


def _child(argv: list[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["train.fit", *argv]
    cli.run(command.main, command.AFTER_INTERRUPT)


def launch(argv: list[str], log: Path) -> BaseProcess:
    """The command in a process of its own, its two streams appended to `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.fit", "train_runs"])
    process = context.Process(target=_child, args=(argv, str(log)))
    process.start()
    return process


def stop_at(
    process: BaseProcess, directory: Path, stage: str, step: int, number: int = signal.SIGKILL, delay: float = 0.0
) -> int | None:
    """Send a signal once `metrics.csv` has reached a step; returns the exit code."""
    file = directory / "metrics.csv"
    mark, limit = f"\n{stage},{step},", time.monotonic() + 60
    while process.is_alive() and not (file.exists() and mark in file.read_text()):
        assert time.monotonic() < limit, "the run does not get there"
        time.sleep(0.002)
    time.sleep(delay)
    if process.is_alive():
        os.kill(process.pid, number)
    process.join(60)
    return process.exitcode
