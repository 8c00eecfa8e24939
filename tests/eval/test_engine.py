"""Generators driven together: batches by length and budget, errors that stay with their item, memory that runs out."""

from __future__ import annotations

import random

import pytest
import torch

from eval.arms import Answered
from eval.engine import Budget, drive
from eval.models import Completion, Request, UnusableError
from vlm.sample import Image, Sample, Text


class Scripted:
    """Writes the prompt's last number plus one; a prompt with `bad` is refused; more than `fits` rows are too many."""

    def __init__(self, fits: int = 10**9, lacking: str = "CUDA out of memory") -> None:
        self.fits, self.batches, self.lacking = fits, [], lacking

    def fingerprint(self) -> str:
        return "scripted"

    def length(self, sample: Sample) -> int:
        return sum(len(s.text) for s in sample.segments if isinstance(s, Text))

    def complete(self, requests):
        if len(requests) > self.fits:
            raise (torch.OutOfMemoryError if "CUDA" in self.lacking else RuntimeError)(self.lacking)
        texts = ["".join(s.text for s in r.sample.segments if isinstance(s, Text)) for r in requests]
        if bad := next((text for text in texts if "bad" in text), None):
            raise ValueError(f"refused: {bad}")
        self.batches.append(list(map(len, texts)))
        return [[Completion(str(int(text.split()[-1]) + 1)) for _ in range(r.num_samples)]
                for text, r in zip(texts, requests, strict=True)]  # fmt: skip


def count(start: int, steps: int, pad: int = 0, **options):
    """Ask `steps` times, each time with what was written before."""
    number = str(start)
    for step in range(steps):
        sample = Sample((Text("x" * pad + f" {number}"),), key=str(start))
        number = (yield Request(sample, 4 + step, **options))[0].text
    return Answered(number, number)


def results(model, jobs, budget=Budget()):  # noqa: B008
    return {result.key: result for ended in drive(model, jobs, budget) for result in ended}


@pytest.mark.parametrize("budget", [Budget(1), Budget(3), Budget(64), Budget(64, tokens=40), Budget(5, window_batches=1)])
def test_every_job_ends_with_its_own_answer_whatever_the_budget(budget):
    rng = random.Random(0)
    jobs = [(f"j{i}", count(i, rng.randrange(4), pad=rng.randrange(9))) for i in range(50)]
    steps = [job.gi_frame.f_locals["steps"] for _, job in jobs]
    found = results(Scripted(), jobs, budget)
    assert {key: int(r.answered.answer) for key, r in found.items()} == {f"j{i}": i + n for i, n in enumerate(steps)}
    assert all(len(found[f"j{i}"].asked) == n for i, n in enumerate(steps))


def test_batches_hold_equal_options_and_nearly_equal_lengths_longest_first():
    model = Scripted()
    results(model, [(f"j{i}", count(1000 + i, 1, pad=i)) for i in range(32)], Budget(8))
    assert model.batches == [[36 - i for i in range(b, b + 8)] for b in (0, 8, 16, 24)]


def test_the_budget_counts_tokens_pictures_and_samples():
    def asks(sample, **options):
        yield Request(sample, 6, **options)
        return Answered(None, "")

    def sizes(budget, sample, **options):
        model = Scripted()
        results(model, [(str(i), asks(sample, **options)) for i in range(8)], budget)
        return [len(batch) for batch in model.batches]

    text = Sample((Text("12 4"),))
    assert sizes(Budget(8, tokens=40), text) == [4, 4]  # 10 tokens each
    assert sizes(Budget(8), text, num_samples=4, temperature=1.0) == [2] * 4
    assert sizes(Budget(8, tokens=600), Sample((Image(b""), Text("12 4")))) == [2] * 4
    assert sizes(Budget(8, tokens=1), text) == [1] * 8  # one always goes


def test_a_refused_request_ends_its_own_job_alone():
    def bad():
        yield Request(Sample((Text("bad 1"),)), 4)
        raise AssertionError("goes on")

    jobs = [(f"j{i}", bad() if i in (3, 9) else count(i, 2)) for i in range(12)]
    found = results(Scripted(), jobs)
    assert {key for key, r in found.items() if r.error} == {"j3", "j9"} and found["j3"].error == "refused: bad 1"
    assert found["j4"].answered.answer == "6"


def test_out_of_memory_halves_the_budget_for_good_and_loses_nothing():
    model = Scripted(fits=5)
    found = results(model, [(f"j{i}", count(i, 2)) for i in range(40)], Budget(16))
    assert all(r.error is None for r in found.values()) and len(found) == 40
    assert max(map(len, model.batches)) <= 5 and len(model.batches) <= 24
    single = results(Scripted(fits=0), [("j", count(1, 1))])
    assert "out of memory" in single["j"].error


def test_what_no_item_is_to_blame_for_ends_the_run():
    class Refusing(Scripted):
        def complete(self, requests):
            raise UnusableError("wrong key")

    with pytest.raises(UnusableError, match="wrong key"):
        results(Refusing(), [("j", count(1, 1))])


def test_no_more_jobs_are_started_than_the_window_holds():
    started = []

    def jobs():
        for i in range(100):
            started.append(i)
            yield f"j{i}", count(i, 1)

    stream = drive(Scripted(), jobs(), Budget(4))
    next(stream)
    assert len(started) == 16


def test_an_item_too_large_for_the_memory_of_a_cpu_is_its_own_error():
    lacking = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 360019200192 bytes."
    (results,) = list(drive(Scripted(0, lacking), [("a", count(1, 1))], Budget()))
    assert results[0].answered is None and results[0].error == "out of memory with this item alone"
    with pytest.raises(RuntimeError, match="a shape"):
        list(drive(Scripted(0, "a shape is wrong"), [("a", count(1, 1))], Budget()))
