"""A stage's steps, taken and sent by a thread that is ahead, or not: the same steps, states, errors and ends."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import same_results, train
from train_steps import Pictures, loader

from datasets.handover import Destination
from datasets.loader import StepBatch, WorkerLost
from train.data import Steps
from vlm.flops import Load


def steps(workers: int, *, ahead: bool, **options: Any) -> Steps:
    destination = Destination()
    return Steps(loader(workers, destination=destination, **options), destination, ahead=ahead)


def taken(found: Iterator[StepBatch], count: int) -> list[StepBatch]:
    return list(itertools.islice(found, count))


def assert_same(ours: StepBatch, theirs: StepBatch) -> None:
    assert (ours.counts, ours.last, ours.step_learnt, ours.state) == (
        theirs.counts,
        theirs.last,
        theirs.step_learnt,
        theirs.state,
    )
    assert ours.load == Load.of(theirs.batch) and ours.batch.extent == theirs.batch.extent
    for name in ("tokens", "labels", "images", "image_index", "media_document", "media_of_frame"):
        assert torch.equal(getattr(ours.batch, name), getattr(theirs.batch, name)), name


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_thread_changes_no_step(workers: int, micro_batches: int) -> None:
    theirs = taken(iter(loader(0, micro_batches=micro_batches)), 12)
    found = iter(steps(workers, ahead=True, micro_batches=micro_batches))
    for place, expected in enumerate(theirs):
        time.sleep(0.03 * (place % 4 == 0))  # a step that takes its time
        assert_same(next(found), expected)


def test_the_state_is_that_of_the_step_however_far_the_thread_is() -> None:
    found = iter(steps(2, ahead=True))
    third = taken(found, 3)[-1]
    time.sleep(0.2)
    state = json.loads(json.dumps(third.state))
    del found
    assert_same(next(iter(steps(2, ahead=True, state=state))), taken(iter(loader(0)), 4)[-1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_what_a_source_raises_comes_as_the_step_after_those_before_it(workers: int, ahead: bool) -> None:
    source = Pictures(gone_at=90)
    expected = []
    with pytest.raises(ValueError, match="the disk is gone"):
        for step in loader(0, source=source):
            expected.append(step)
    found = taken(iter(steps(workers, ahead=ahead, source=source)), len(expected) + 3)
    # a worker's lanes read ahead of the others', and all stop with the first of them
    whole = [step for step in found if step.failure is None]
    assert whole and len(whole) <= len(expected) and all(step.failure is not None for step in found[len(whole) :])
    for ours, theirs in zip(whole, expected, strict=False):
        assert_same(ours, theirs)
    assert str(found[-1].failure) == "pictures: the disk is gone" and found[-1].batch.tokens.shape == (4, 64)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_a_step_after_those_that_are_there() -> None:
    found = iter(steps(2, ahead=True))
    assert next(found).failure is None
    time.sleep(0.5)  # two more are ready
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    rest = taken(found, 12)
    assert [step.failure is None for step in rest[:2]] == [True, True] and isinstance(rest[-1].failure, WorkerLost)
    assert "\n" not in str(rest[-1].failure)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_thread_and_workers_end_with_the_iterator(count: int) -> None:
    found = iter(steps(2, ahead=True))
    taken(found, count)
    assert len(multiprocessing.active_children()) == 2 * (count > 0)
    del found
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_the_time_that_steps_are_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    get = Pictures.get
    monkeypatch.setattr(Pictures, "get", lambda *arguments: time.sleep(0.01) or get(*arguments))
    ours = steps(0, ahead=False)
    found = iter(ours)
    next(found)
    assert ours.take_waited() > 0.01
    time.sleep(0.2)  # the one who asks does something else
    assert ours.take_waited() == 0
    next(found)
    assert ours.take_waited() > 0


def test_a_run_with_a_thread_is_trained_as_one_without(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forced(loader: Any, destination: Destination, *, ahead: bool) -> Steps:
        return Steps(loader, destination, ahead=True)

    monkeypatch.setattr("train.data.Steps", forced)
    assert same_results(finished, train(tmp_path / "run", "run.workers=2"))
