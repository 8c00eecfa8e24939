"""Processes that are killed at random moments: whatever is left undone, the records in the end are those of one quiet run."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vlm
from eval.arms import make
from eval.engine import Budget
from eval.evaluate import Running, evaluate
from eval.models.own import Own
from eval.store import RECORDS
from eval.tasks import Item, Task, charts
from eval.work import Chunks, Ranks
from tests.eval.conftest import picture

TASK = Task("mine", lambda data, split: [], "relaxed_accuracy", by=("kind",), max_new_tokens=6)
ARM = make(TASK, "two_stage", rationale_tokens=6)


def questions(count: int) -> list[Item]:
    return [
        Item(
            f"q{i}", f"How {'very ' * (i % 7)}red?", (str(i),), (picture(i % 50),), group=f"p{i % 50}",
            tags={"kind": "ab"[i % 2]},
        )
        for i in range(count)
    ]  # fmt: skip


def work(own: Own, items: list[Item], out: Path, rank: int, world: int, batch: int) -> None:
    torch.set_num_threads(1)
    evaluate(own, TASK, items, out, arm=ARM, running=Running(Budget(batch), ranks=Ranks(rank, world), patience=30))


def start(own: Own, items: list[Item], out: Path, world: int, batch: int) -> list:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(own, items, out, rank, world, batch)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def kill_some(processes: list, rng: random.Random) -> None:
    """All at a random moment, or one of them a little later."""
    time.sleep(rng.uniform(0.05, 0.5))
    for process in rng.choice([processes, processes[:1], processes[-1:]]):
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(rng.uniform(0, 0.2))
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize(("kills", "count"), [(3, 120), pytest.param(20, 600, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_otherwise(model_and_processor, tmp_path, kills, count):
    """With another batch size and another number of processes each time."""
    own, items, rng = Own(*model_and_processor), questions(count), random.Random(kills)
    whole = evaluate(own, TASK, items, tmp_path / "whole", arm=ARM)
    out, seen = tmp_path / "killed", 0
    for _ in range(kills):
        kill_some(start(own, items, out, rng.randint(1, 3), rng.choice([1, 2, 3])), rng)
        lines = sum(path.read_bytes().count(b"\n") for path in out.glob("records*.jsonl"))
        assert lines >= seen
        seen = lines
    last = start(own, items, out, 2, 64)
    for process in last:
        process.join(60)
        assert process.exitcode == 0
    assert evaluate(own, TASK, items, out, arm=ARM) == whole
    assert (out / RECORDS).read_bytes() == (tmp_path / "whole" / RECORDS).read_bytes()
    assert (out / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()


def test_the_first_process_does_what_a_dead_one_left(model_and_processor, tmp_path):
    own, items = Own(*model_and_processor), questions(60)
    first, second = start(own, items, tmp_path / "out", 2, 2)
    time.sleep(0.3)
    second.kill()
    first.join(60)
    assert first.exitcode == 0
    whole = evaluate(own, TASK, items, tmp_path / "whole", arm=ARM)
    assert (tmp_path / "out" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert whole["missing"] == 0


def hold(path: Path, ready) -> None:
    with Chunks(path, range(20), 5, lambda item: False, lambda: None) as chunks:
        next(chunks.take())
        ready.set()
        time.sleep(60)


def test_a_process_that_hangs_is_not_waited_for_without_end_and_one_that_dies_is_followed(tmp_path):
    done, fork = set(), multiprocessing.get_context("fork")
    ready = fork.Event()
    hanging = fork.Process(target=hold, args=(tmp_path / "chunks", ready))
    hanging.start()
    assert ready.wait(10)
    with Chunks(tmp_path / "chunks", range(20), 5, done.__contains__, lambda: None) as chunks:
        done.update(chunks.take())
        assert done == set(range(5, 20))
        assert chunks.wait(0.3, lambda: done.update(chunks.take())) == 5
        hanging.kill()
        hanging.join()
        assert chunks.wait(5, lambda: done.update(chunks.take())) == 0
    assert done == set(range(20))


@pytest.mark.slow
def test_the_command_under_torchrun_gives_what_one_process_gives(model_and_processor, tmp_path):
    vlm.save(tmp_path / "run" / "model", *model_and_processor)
    command = ["-m", "eval.run", "--checkpoint", str(tmp_path / "run"), "--task", "charts", "--cot", "none", "--limit", "60"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for launch, name in ((torchrun, "two"), ([sys.executable], "one")):
        subprocess.run([*launch, *command, "--batch-size", "8", "--out", str(tmp_path / name)], check=True, timeout=300)
    for name in (RECORDS, "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_command_killed_and_run_again(model_and_processor, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    vlm.save(run / "model", *model_and_processor)
    command = [sys.executable, "-m", "eval.run", "--checkpoint", str(run), "--task", "charts", "--cot", "none"]
    command += ["--limit", "400", "--batch-size", "1", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    records, deadline = out / RECORDS, time.monotonic() + 90
    while (not records.exists() or records.read_bytes().count(b"\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 20 <= records.read_bytes().count(b"\n") < 400

    own, items = Own(*vlm.load(run)), charts.items(0, 400, "sight")
    resumed = evaluate(own, charts.TASK, items, out, arm=make(charts.TASK))
    assert resumed == evaluate(own, charts.TASK, items, tmp_path / "whole", arm=make(charts.TASK))
