"""What a stage's data were, in figures: shares, tokens, images and samples by source, cuts, padding, and what was left out.

Totals are sums over all ranks since the stage's start, saved with each checkpoint. A sample counts when a row takes its start,
or when it is found to be bad; `data/waiting` are those that were drawn and that no step has seen. `skipped.jsonl` in the
run directory tells the first bad samples of each source and reason, `{"stage", "step", "source", "reason", "sample"}` a line.
What shards hold and no sample has (members passed over, what a cut took) is known when they are opened: the same at every step,
told as step 0.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets.counts import Counts, Skip
from datasets.pack import EXAMPLES
from datasets.shards import ShardSource
from datasets.source import Source

LEAST = 100  # samples drawn of a source before its share of bad ones is judged
_TOTALS = ("positions", "tokens", "images", "documents", "cuts", "truncated", "cropped")
Example = tuple[int, Skip]  # with its step
_NAMES = ("stage", "source", "reason", "sample")  # of a row of skipped.jsonl, beside its step


def totals_of(counts: Counts) -> Counter[str]:
    """`data/…` and `skipped/SOURCE/REASON` of some rows; they add up."""
    totals = Counter({f"data/{name}": getattr(counts, name) for name in _TOTALS})
    for name, by_source in (("samples", counts.drawn), ("tokens", counts.source_tokens), ("images", counts.source_images)):
        totals.update({f"data/{name}/{source}": n for source, n in by_source.items()})
    totals.update({f"skipped/{source}/{reason}": n for (source, reason), n in counts.skipped.items()})
    return totals


def waiting(state: Mapping[str, Mapping]) -> int:
    """Documents that some lanes have drawn and not begun."""
    return sum(offset == part == 0 for lane in state.values() for *_, offset, part in lane["pending"])


def data_figures(totals: Counter[str], sources: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Rows of `metrics.csv` for sources of these sizes. `data/share/SOURCE` is one of all tokens; epochs are this stage's."""
    tokens = max(1, totals["data/tokens"])
    yield "data/waiting", totals["data/waiting"]
    yield "data/padding", 1 - totals["data/tokens"] / max(1, totals["data/positions"])
    for name in ("images", "documents", "cuts", "truncated", "cropped"):
        yield f"data/{name}", totals[f"data/{name}"]
    for source, size in sources.items():
        yield f"epochs/{source}", totals[f"data/samples/{source}"] / size
        for name in ("samples", "tokens", "images"):
            yield f"data/{name}/{source}", totals[f"data/{name}/{source}"]
        yield f"data/share/{source}", totals[f"data/tokens/{source}"] / tokens
    yield from ((name, n) for name, n in totals.items() if name.startswith("skipped/"))


def passed_over(sources: Sequence[Source]) -> dict[str, int]:
    """`passed_over/SOURCE/REASON`: members of shards, and shards that are cut off."""
    shards = [source for source in sources if isinstance(source, ShardSource)]
    return {f"passed_over/{s.name}/{reason}": n for s in shards for reason, n in s.passed_over.items()}


def check_skipped(totals: Counter[str], sources: Sequence[str], most: float) -> None:
    """Raises `ValueError` in one line for a source of which more than the share `most` cannot be used."""
    for source in sources:
        drawn, start = totals[f"data/samples/{source}"], f"skipped/{source}/"
        reasons = {name.removeprefix(start): n for name, n in totals.items() if name.startswith(start)}
        skipped = sum(reasons.values())
        if drawn >= LEAST and skipped > most * drawn:
            why = ", ".join(f"{reason} {n:,}" for reason, n in sorted(reasons.items(), key=lambda entry: -entry[1])[:4])
            raise ValueError(
                f"source {source!r}: {skipped:,} of {drawn:,} samples cannot be used ({why}), more than run.max_skipped "
                f"{most:g}; examples are in skipped.jsonl"
            )


class SkippedLog:
    """`skipped.jsonl`, on rank 0: what a killed run wrote after the checkpoint that we go on from is dropped."""

    def __init__(self, run_dir: Path, stage: str, start: int, order: Sequence[str], sources: Sequence[Source] = ()) -> None:
        self.path, self.stage = run_dir / "skipped.jsonl", stage
        before, found = order[: order.index(stage)], list(_rows(self.path))
        mine = [r for r in found if r["stage"] == stage and 0 < r["step"] <= start]
        self.told: dict[tuple[str, str], set[str]] = {}
        for row in mine:
            self.told.setdefault((row["source"], row["reason"]), set()).add(row["sample"])
        shards = [source for source in sources if isinstance(source, ShardSource)]
        rows = [r for r in found if r["stage"] in before]
        rows += [*(self._row(0, example) for source in shards for example in source.examples), *mine]
        if rows or self.path.exists():
            fresh = self.path.with_suffix(".new")
            fresh.write_text("".join(_line(row) for row in rows), encoding="utf-8")
            os.replace(fresh, self.path)

    def write(self, examples: Sequence[Example]) -> None:
        """The first `EXAMPLES` samples of each source and reason of this stage, each once, whatever the epoch."""
        for step, example in sorted(examples):
            row, told = self._row(step, example), self.told.setdefault((example.source, example.reason), set())
            if len(told) < EXAMPLES and row["sample"] not in told:
                told.add(row["sample"])
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(row))

    def _row(self, step: int, example: Skip) -> dict:
        source, reason, detail = example
        return {"stage": self.stage, "step": step, "source": source, "reason": reason, "sample": detail[:500]}


def _rows(path: Path) -> Iterator[dict]:
    """Whole lines of this file's form only: a kill may leave a part of one, and what else stands there is nobody's record."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith("\n") else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and isinstance(row.get("step"), int) and all(isinstance(row.get(n), str) for n in _NAMES):
                yield row


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
