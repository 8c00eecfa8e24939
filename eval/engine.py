"""Drives the arms of an evaluation: thousands of generators, each waiting for what a model writes, and batches of all of them.

Jobs are started in the order given (the caller's: long prompts first, so that memory runs out at the start and not at the end)
and at most `Budget.window` at a time, which bounds the pictures held. Whenever no more can be started, the largest group of
waiting requests with equal options gives one batch: those with the longest prompts, as many as the budget takes. A batch is of
nearly equal lengths, then, whichever step of its arm each request is; but for rounding, what the model writes for a request
does not depend on what stands beside it, so that results are those of any other budget.

Where the accelerator's memory does not suffice the budget is halved, for good. A request that the model refuses (`ValueError`:
a broken picture) is found by halving its batch and ends its own job alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from eval.arms import Answered, Steps
from eval.hashing import image_hash, prompt_hash
from eval.models import Completion, Model, Request, UnusableError
from vlm.sample import Image, Video

PICTURE_TOKENS = 256  # what a frame adds to a prompt's cost: about the patches an encoder makes of it


@dataclass(frozen=True, slots=True)
class Budget:
    """What a batch may hold: `rows` texts being written, and `tokens`, prompts, room to write and pictures together."""

    rows: int = 128
    tokens: int = 2**17
    window_batches: int = 4  # batches' worth of jobs under way: enough for full batches where an arm has several steps

    @property
    def window(self) -> int:
        return self.rows * self.window_batches


@dataclass(frozen=True, slots=True)
class Asked:
    """One step of a job: a prompt's hashes and its length in tokens, and what was written."""

    prompt_hash: str
    image_hash: str | None
    prompt_tokens: int
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended: `answered`, or the `error` that kept it from being asked; and its steps."""

    key: str
    answered: Answered | None
    error: str | None = None
    asked: tuple[Asked, ...] = ()


@dataclass(slots=True)
class _Job:
    key: str
    steps: Steps
    request: Request
    length: int
    asked: tuple[Asked, ...] = ()

    @property
    def options(self) -> tuple:
        """What the requests of a batch agree in."""
        request = self.request
        return request.max_new_tokens, request.stop, request.temperature, request.top_p, request.num_samples

    @property
    def cost(self) -> int:
        return cost(self.request, self.length)


def cost(request: Request, length: int) -> int:
    """Tokens that a request with a prompt of `length` takes in a batch."""
    segments = request.sample.segments
    frames = sum(len(s.frames) if isinstance(s, Video) else 1 for s in segments if isinstance(s, Image | Video))
    return (length + request.max_new_tokens) * request.num_samples + frames * PICTURE_TOKENS


def drive(model: Model, jobs: Iterable[tuple[str, Steps]], budget: Budget) -> Iterator[list[Result]]:
    """Run every job (key, steps) to its end; yields those that ended, a batch at a time, in no particular order."""
    source = iter(jobs)
    waiting: list[_Job] = []
    while True:
        ended = list(_fill(model, source, waiting, budget.window))
        if ended:
            yield ended
        if not waiting:
            return
        batch = _next_batch(waiting, budget)
        chosen = set(map(id, batch))
        waiting = [job for job in waiting if id(job) not in chosen]
        answers, budget = _ask(model, batch, budget)
        results = [_go_on(model, job, answer) for job, answer in zip(batch, answers, strict=True)]
        waiting += [job for job in results if isinstance(job, _Job)]
        yield [result for result in results if isinstance(result, Result)]


def _fill(model: Model, source: Iterator[tuple[str, Steps]], waiting: list[_Job], window: int) -> Iterator[Result]:
    """Start jobs until `window` wait; those that end without a question are results at once."""
    while len(waiting) < window and (job := next(source, None)) is not None:
        started = _advance(model, *job, None, ())
        if isinstance(started, _Job):
            waiting.append(started)
        else:
            yield started


def _go_on(model: Model, job: _Job, answer: list[Completion] | str) -> _Job | Result:
    if isinstance(answer, str):
        job.steps.close()
        return Result(job.key, None, answer, job.asked)
    sample = job.request.sample
    asked = Asked(prompt_hash(sample), image_hash(sample), job.length, tuple(answer))
    return _advance(model, job.key, job.steps, answer, (*job.asked, asked))


def _advance(model: Model, key: str, steps: Steps, answer: list[Completion] | None, asked: tuple[Asked, ...]) -> _Job | Result:
    """Send what was written; a picture that cannot be read ends the job with its reason."""
    try:
        request = next(steps) if answer is None else steps.send(answer)
        return _Job(key, steps, request, model.length(request.sample), asked)
    except StopIteration as end:
        return Result(key, end.value, None, asked)
    except (ValueError, OSError) as error:
        return Result(key, None, reason(error), asked)


def _next_batch(waiting: Sequence[_Job], budget: Budget) -> list[_Job]:
    """The longest of the largest group; always one at least."""
    groups: dict[Any, list[_Job]] = {}
    for job in waiting:
        groups.setdefault(job.options, []).append(job)
    largest: list[_Job] = max(groups.values(), key=len)
    group = sorted(largest, key=lambda job: (-job.length, job.key))
    rows = tokens = 0
    for count, job in enumerate(group):
        rows, tokens = rows + job.request.num_samples, max(tokens, job.cost)
        if count and (rows > budget.rows or tokens * (count + 1) > budget.tokens):
            return group[:count]
    return group


def _ask(model: Model, jobs: Sequence[_Job], budget: Budget) -> tuple[list[list[Completion] | str], Budget]:
    """What was written for each, or why nothing can be; and the budget that fits into memory."""
    try:
        return list(model.complete([job.request for job in jobs])), budget
    except UnusableError:
        raise
    except (ValueError, RuntimeError) as error:
        failed: Exception = error
        if not isinstance(failed, ValueError) and not _lacks_memory(failed):
            raise
    if not isinstance(failed, ValueError):
        failed = failed.with_traceback(None)  # its frames hold the tensors
        torch.cuda.empty_cache()
        budget = replace(budget, tokens=max(1, max(job.cost for job in jobs) * len(jobs) // 2))
    if len(jobs) == 1:
        return [reason(failed)], budget
    half = (len(jobs) + 1) // 2
    first, budget = _ask(model, jobs[:half], budget)
    second, budget = _ask(model, jobs[half:], budget)
    return first + second, budget


def _lacks_memory(error: Exception) -> bool:
    """On a CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, RuntimeError):
        return "out of memory with this item alone"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())[:500] or type(error).__name__
