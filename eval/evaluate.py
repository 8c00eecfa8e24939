"""Ask a model every item of a task and keep what it said: batched by prompt length, resumable by sample, then summarised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eval import metrics, stats
from eval.cli import Progress
from eval.prompting import DIRECT, Arm, parse, sample
from eval.store import RecordStore, write_json
from eval.tasks import Item, Task, digest
from vlm.model import VLM
from vlm.processor import Encoded, Processor
from vlm.sample import Text

WINDOW = 32  # batches sorted by prompt length at a time: little padding, and records in almost the items' order


def evaluate(
    model: VLM,
    processor: Processor,
    task: Task,
    items: Sequence[Item],
    out: Path,
    *,
    arm: Arm = DIRECT,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 128,
    replace: bool = False,
) -> dict:
    """Records and `summary.json` under `out`; returns the summary. Resumes what an earlier call left unfinished there."""
    records = collect(model, processor, task, items, out, arm=arm, shard=shard, batch_size=batch_size, replace=replace)
    summary = {"task": task.name, "cot": arm.cot, "blank": arm.blank, **summarize(task, records)}
    summary["missing"] = len(items) - len(records)
    write_json(Path(out) / "summary.json", summary)
    return summary


def collect(
    model: VLM,
    processor: Processor,
    task: Task,
    items: Sequence[Item],
    out: Path,
    *,
    arm: Arm = DIRECT,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 128,
    replace: bool = False,
) -> list[dict]:
    """One record an item, in the items' order: those on disk under `out`, and the model's answers to the others.

    `shard` (i, n): answer every n-th item from the i-th on; the result holds whatever all shards have done so far.
    Raises `ValueError` when `out` holds records of another checkpoint or other settings, unless these are to be `replace`d.
    """
    settings: dict[str, Any] = {"checkpoint": fingerprint(model), "task": task.name, "metric": metrics.get(task.metric).label}
    settings |= {"cot": arm.cot, "blank": arm.blank, "max_new_tokens": arm.max_new_tokens(task.max_new_tokens)}
    store = RecordStore(out, settings, shard, replace=replace)
    mine = items[shard[0] :: shard[1]]
    digests = {item.id: _input_digest(item, arm) for item in items}
    todo = [item for item in mine if not store.done(item.id, digests[item.id])]
    name = f"{task.name} ({', '.join(['direct' if arm.cot == 'none' else 'rationale first'] + ['blanked'] * arm.blank)})"
    with inference(model), Progress(name, len(todo)) as progress:
        for chunk in _batches(todo, processor, batch_size):
            store.append(_answer(model, processor, task, chunk, arm, digests))
            progress.update(len(chunk))
    return store.finish(digests)


def _answer(
    model: VLM, processor: Processor, task: Task, items: Sequence[Item], arm: Arm, digests: dict[str, str]
) -> list[dict]:
    batch = processor.collate([[_encode(processor, item, arm)] for item in items]).to(device_of(model))
    batch = batch.with_blank_images() if arm.blank else batch
    limit = arm.max_new_tokens(task.max_new_tokens)
    generated = model.generate(batch, max_new_tokens=limit, stop_ids=(processor.eos_id,), temperature=0.0)
    metric = metrics.get(task.metric)
    records = []
    for item, tokens, logprobs in zip(items, generated.tokens, generated.logprobs, strict=True):
        output = processor.decode(tokens)
        parsed = parse(output, arm)
        record: dict[str, Any] = {
            "id": item.id,
            "input": digests[item.id],
            "question": item.question,
            "references": list(item.references),
        }
        record |= {"output": output, "rationale": parsed.rationale, "prediction": parsed.answer}
        record["score"] = 0.0 if parsed.answer is None else metric.score(parsed.answer, item.references, {})
        record |= {"image": item.group, **item.tags, "logprob": round(sum(logprobs), 3), "tokens": list(tokens)}
        records.append(record)
    return records


def _encode(processor: Processor, item: Item, arm: Arm) -> Encoded:
    try:
        return processor.encode(sample(item, arm))
    except ValueError as error:
        raise ValueError(f"item {item.id} ({item.group}): {error}") from None


def summarize(task: Task, records: Sequence[dict]) -> dict:
    """Figures over all records, by each of the task's tags, and the mean over one of them where the task says so."""
    metric = metrics.get(task.metric)
    summary = {metric.name: accuracy(task, records)}
    for tag in task.by:
        groups = split_by(records, tag)
        summary[f"by_{tag}"] = {name: accuracy(task, rows) for name, rows in groups.items()}
        if tag == task.mean_of and len(groups) > 1:
            share = {name: len(records) / (len(groups) * len(rows)) for name, rows in groups.items()}
            weighted = [record["score"] * share[record[tag]] for record in records]
            summary[f"mean_of_{tag}s"] = stats.mean(weighted, [r["image"] for r in records], variant=metric.variant)
    unparsed = [float(record["prediction"] is None) for record in records]
    summary["unparsed"] = stats.share(unparsed, [r["image"] for r in records], variant="share of outputs without an answer")
    return summary


def accuracy(task: Task, records: Sequence[dict]) -> stats.Figure:
    """Mean score with its interval; questions about one picture are one group."""
    scores, images = [r["score"] for r in records], [r["image"] for r in records]
    return stats.mean(scores, images, variant=metrics.get(task.metric).variant)


def split_by(records: Sequence[dict], tag: str) -> dict[str, list[dict]]:
    """Records by the value of a tag, in the alphabet's order."""
    names = sorted({record[tag] for record in records})
    return {name: [record for record in records if record[tag] == name] for name in names}


def _batches(items: Sequence[Item], processor: Processor, size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size * WINDOW):
        window = items[start : start + size * WINDOW]
        lengths = {item.id: len(processor.tokenize(item.context + item.question)) for item in window}
        ordered = sorted(window, key=lambda item: lengths[item.id])
        yield from (ordered[i : i + size] for i in range(0, len(ordered), size))


def _input_digest(item: Item, arm: Arm) -> str:
    """Covers the prompt's text and the bytes of its pictures: a changed picture under the same id is asked again."""
    texts = [segment.text for segment in sample(item, arm).segments if isinstance(segment, Text)]
    return digest(*texts, *item.pictures(), *item.references)


def fingerprint(model: VLM) -> str:
    """A hash of the weights, whatever precision holds them: up to 4,096 values of each tensor, evenly spread."""
    parts: list[str | bytes] = []
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // 4096)].double().cpu().numpy()
        parts += [json.dumps([name, list(tensor.shape)]), picked.tobytes()]
    return digest(*parts)


def device_of(model: VLM) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def inference(model: VLM) -> Iterator[None]:
    """Evaluation mode without gradients; the mode before is restored."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(before)
