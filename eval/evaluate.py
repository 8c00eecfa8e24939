"""Ask a model every item of a task and keep what it said: batched by `eval.engine`, resumable by sample, then summarised.

An item that cannot be asked (its picture is missing or broken, the model refuses it) is kept as a record with an `error`,
counted and shown; the run goes on, and stops only when more than `max_errors` of the items (and more than `FEW_ERRORS`) fail.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval import metrics
from eval.arms import Arm
from eval.cli import Progress
from eval.engine import Budget, Result, drive
from eval.hashing import item_hash
from eval.models import Model
from eval.store import Key, RecordStore, write_json
from eval.summarize import score, summarize
from eval.tasks import Item, Task
from eval.work import Chunks, Ranks

FEW_ERRORS = 10
CHUNKS = 8  # for each process at least: so that the last ones end at about the same time


@dataclass(frozen=True, slots=True)
class Running:
    """How an evaluation runs. Nothing here changes an answer."""

    budget: Budget = field(default_factory=Budget)
    shard: tuple[int, int] = (0, 1)  # (i, n): every n-th item from the i-th on
    ranks: Ranks = field(default_factory=Ranks)
    replace: bool = False  # drop records of another model or other settings
    scored: bool = True
    max_errors: float = 0.01  # share of the items
    patience: float = 600.0  # seconds without a new record that the first process waits for the others


RUNNING = Running()


@dataclass(frozen=True, slots=True)
class _Todo:
    item: Item
    input: str
    size: int  # about the length of the prompt


def evaluate(
    model: Model, task: Task, items: Sequence[Item], out: Path, *, arm: Arm, running: Running = RUNNING
) -> dict | None:
    """Records and `summary.json` under `out`; returns the summary. Resumes what an earlier call left unfinished there.

    Of several processes the first writes the summary, the others return `None`. Raises `ValueError` when no item at all can
    be asked, when some are missing that no other shard is to do, and as `collect` does.
    """
    records = collect(model, task, items, out, arm=arm, running=running)
    if running.ranks.rank:
        return None
    summary = {"task": task.name, **arm.settings, "metric": metrics.get(task.metric).label, **summarize(task, records)}
    answered = [record for record in records if "score" in record]
    summary |= arm.figures(answered, metrics.get(task.metric)) if arm.figures and answered else {}
    summary["missing"] = len(items) - len(records)
    write_json(Path(out) / "summary.json", summary)
    if records and summary.get("errors", {}).get("count") == len(records):
        raise ValueError(f"{out}: none of {len(records)} items could be asked: {summary['errors']['first']}")
    if summary["missing"] and running.shard[1] == 1:
        raise ValueError(f"{out}: {summary['missing']} of {len(items)} items are missing: the same command does them")
    return summary


def collect(model: Model, task: Task, items: Sequence[Item], out: Path, *, arm: Arm, running: Running = RUNNING) -> list[dict]:
    """One record an item, in the items' order: those on disk under `out`, and the model's answers to the others; the result
    holds whatever all shards have done so far.

    Raises `ValueError` when `out` holds records of another model or other settings, unless these are to be replaced; when an
    id occurs twice; and when too many items fail.
    """
    ranks, metric = running.ranks, metrics.get(task.metric)
    settings = {"checkpoint": model.fingerprint(), "task": task.name, "metric": metric.label, **arm.settings}
    how = {"replace": running.replace, "patience": running.patience}
    store = RecordStore(out, settings, running.shard, (ranks.rank, ranks.world), **how)
    inputs = {item.id: item_hash(item) for item in items}
    if len(inputs) < len(items):
        raise ValueError(f"task {task.name}: the id {_twice(items)!r} occurs twice")
    if running.scored and metric.needs_references and (unknown := next((i.id for i in items if not i.references), None)):
        raise ValueError(f"task {task.name}: the answer to item {unknown} is not known: --predict-only keeps what was written")
    if untagged := next(((i.id, tag) for tag in task.by for i in items if tag not in {**i.options, **i.tags}), None):
        raise ValueError(f"task {task.name}: figures are by {untagged[1]!r}, which item {untagged[0]} does not have")
    todo = [_Todo(item, inputs[item.id], _size(item)) for item in items[running.shard[0] :: running.shard[1]]]
    _answer_all(model, metric, _name(task, arm), arm, todo, store, running)
    if ranks.rank:
        return []
    if running.scored:
        score(metric, store.found(inputs))
    return store.finish(inputs)


def _answer_all(
    model: Model, metric: metrics.Metric, name: str, arm: Arm, todo: Sequence[_Todo], store: RecordStore, running: Running
) -> None:
    """Long prompts first. With several processes each takes chunks; the first one waits for all."""
    ranks, budget = running.ranks, running.budget
    inputs = frozenset((one.item.id, one.input) for one in todo)
    left = [one for one in sorted(todo, key=lambda one: (-one.size, one.item.id)) if not store.done(one.item.id, one.input)]
    if ranks.world == 1:
        with Progress(name, len(left)) as progress:
            _answer(model, metric, arm, left, inputs, store, budget, running, progress)
        return
    todo = sorted(todo, key=lambda one: (-one.size, one.item.id))
    size = max(1, min(budget.rows, len(todo) // (ranks.world * CHUNKS)))
    path = store.directory / f".chunks-{running.shard[0]}-of-{running.shard[1]}-by-{size}"
    budget = replace(budget, rows=max(1, min(budget.rows, len(todo) // (ranks.world * 2))), window_batches=1)
    progress = Progress(f"{name}, process {ranks.rank}", max(1, len(left) // ranks.world))
    with Chunks(path, todo, size, lambda one: store.done(one.item.id, one.input), store.refresh) as chunks, progress:

        def work() -> None:
            _answer(model, metric, arm, chunks.take(), inputs, store, budget, running, progress)

        work()
        missing = chunks.wait(running.patience, work) if ranks.rank == 0 else 0
    if missing:
        message = f"no new record for {running.patience:g} s, {missing} of {len(todo)} items are missing"
        print(f"warning: {name}: {message}", file=sys.stderr, flush=True)


def _answer(
    model: Model,
    metric: metrics.Metric,
    arm: Arm,
    todo: Sequence[_Todo] | Iterator[_Todo],
    inputs: Set[Key],
    store: RecordStore,
    budget: Budget,
    running: Running,
    progress: Progress,
) -> None:
    started: dict[str, _Todo] = {}

    def jobs() -> Iterator[tuple]:
        for one in todo:
            started[one.item.id] = one
            yield one.item.id, arm.ask(one.item)

    for results in drive(model, jobs(), budget):
        records = [_record(metric, arm.settings.get("parser", ""), started.pop(result.key), result) for result in results]
        if running.scored and metric.score is not None:
            score(metric, records)
        store.append(records)
        progress.update(len(records))
        _check_errors(store, inputs, running.max_errors)


def _record(metric: metrics.Metric, parser: str, one: _Todo, result: Result) -> dict:
    item, answered = one.item, result.answered
    record: dict[str, Any] = {**_plain(item.options), **_plain(item.tags), "id": item.id, "input": one.input}
    record |= {"question": item.question, "references": list(item.references), "image": item.group}
    record |= {"choices": dict(item.choices)} if item.choices else {}
    if answered is None:
        return record | {"prediction": None, "output": None, "error": result.error}
    record |= dict(answered.extra)
    record |= {"output": answered.output, "rationale": answered.rationale, "prediction": answered.answer}
    record |= {"parser": parser, "metric": metric.label}
    return record | _steps(result)


def _plain(options: Mapping) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _steps(result: Result) -> dict:
    """What was asked and written on the way; `tokens` and `logprob` are of the last step's first text."""
    if not result.asked:
        return {"requests": 0, "finish": "stop", "new_tokens": 0}
    first, last = result.asked[0], result.asked[-1]
    written = [completion for asked in result.asked for completion in asked.completions]
    final = last.completions[0]
    found: dict[str, Any] = {"prompt_hash": first.prompt_hash, "image_hash": first.image_hash, "requests": len(result.asked)}
    ways = {c.finish for c in last.completions}
    found["finish"] = next(way for way in ("refused", "length", "stop") if way in ways)
    found |= {"prompt_tokens": sum(asked.prompt_tokens for asked in result.asked)}
    found |= {"new_tokens": sum(len(completion.tokens or completion.logprobs or ()) for completion in written)}
    found["logprob"] = None if final.logprobs is None else round(sum(final.logprobs), 2)
    return found | {"tokens": list(final.tokens)}


def _check_errors(store: RecordStore, inputs: Set[Key], share: float) -> None:
    errors = store.new_errors(inputs)
    if len(errors) > max(FEW_ERRORS, share * len(inputs)):
        error = min(errors, key=lambda record: record["id"])
        raise ValueError(
            f"{len(errors)} of {len(inputs)} items cannot be asked, more than --max-errors {share:g}; "
            f"the first is {error['id']}: {error['error']}"
        )


def _name(task: Task, arm: Arm) -> str:
    """For the progress line."""
    cot = str(arm.settings.get("cot"))
    cot = {"none": "direct", "single": "rationale first"}.get(cot, cot)
    return f"{task.name} ({', '.join([cot] + ['blanked'] * bool(arm.settings.get('blank')))})"


def _size(item: Item) -> int:
    texts = (item.question, item.context, item.hint, *(item.choices or {}).values())
    return sum(map(len, texts)) + len(item.images)


def _twice(items: Sequence[Item]) -> str:
    return Counter(item.id for item in items).most_common(1)[0][0]
