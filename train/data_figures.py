"""What a stage's data were, in figures: shares, tokens, images and samples by source, cuts, padding, and what was left out.

Totals are sums over all ranks since the stage's start, saved with each checkpoint. `skipped.jsonl` in the run directory tells
the first bad samples of each source and reason: `{"stage", "step", "source", "reason", "sample"}`, one a line.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.counts import Counts, Skip
from datasets.pack import EXAMPLES

LEAST = 100  # samples drawn of a source before its share of bad ones is judged
_TOTALS = ("positions", "tokens", "images", "documents", "cuts", "truncated", "cropped")
Example = tuple[int, Skip]  # with its step


def totals_of(counts: Counts) -> Counter[str]:
    """`data/…` and `skipped/SOURCE/REASON` of some rows; they add up."""
    totals = Counter({f"data/{name}": getattr(counts, name) for name in _TOTALS})
    for name, by_source in (("samples", counts.drawn), ("tokens", counts.source_tokens), ("images", counts.source_images)):
        totals.update({f"data/{name}/{source}": n for source, n in by_source.items()})
    totals.update({f"skipped/{source}/{reason}": n for (source, reason), n in counts.skipped.items()})
    return totals


def data_figures(totals: Counter[str], sources: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Rows of `metrics.csv`; shares are of 1, `data/share/SOURCE` is one of all tokens."""
    tokens = max(1, totals["data/tokens"])
    yield "data/padding", 1 - totals["data/tokens"] / max(1, totals["data/positions"])
    for name in ("images", "documents", "cuts", "truncated", "cropped"):
        yield f"data/{name}", totals[f"data/{name}"]
    for source in sources:
        for name in ("samples", "tokens", "images"):
            yield f"data/{name}/{source}", totals[f"data/{name}/{source}"]
        yield f"data/share/{source}", totals[f"data/tokens/{source}"] / tokens
    yield from ((name, n) for name, n in totals.items() if name.startswith("skipped/"))


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

    def __init__(self, run_dir: Path, stage: str, start: int, order: Sequence[str]) -> None:
        self.path, self.stage = run_dir / "skipped.jsonl", stage
        before = order[: order.index(stage)]
        rows = [r for r in _rows(self.path) if r["stage"] in before or (r["stage"] == stage and r["step"] <= start)]
        self.told = Counter((r["source"], r["reason"]) for r in rows if r["stage"] == stage)
        if self.path.exists():
            fresh = self.path.with_suffix(".new")
            fresh.write_text("".join(_line(row) for row in rows), encoding="utf-8")
            os.replace(fresh, self.path)

    def write(self, examples: Sequence[Example]) -> None:
        """The first `EXAMPLES` of each source and reason of this stage."""
        for step, (source, reason, detail) in sorted(examples):
            self.told[source, reason] += 1
            if self.told[source, reason] <= EXAMPLES:
                row = {"stage": self.stage, "step": step, "source": source, "reason": reason, "sample": detail[:500]}
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(row))


def _rows(path: Path) -> Iterator[dict]:
    """Whole lines only: a kill may leave a part of one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return (json.loads(line) for line in lines if line.endswith("\n"))


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
