"""What the counted rows hold, in numbers: for the terminal and for the head of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.counts import Counts
from datasets.mixture import Mixture
from datasets.show.trace import Document
from vlm.batch import Batch
from vlm.command import printable

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
LONGEST = 5  # documents named
KEY = 100  # characters of a key that are shown


@dataclass
class Summary:
    """Filled by `add`, a batch at a time."""

    length: int
    rows: int = 0
    padding: int = 0
    counts: Counts = field(default_factory=Counts)
    documents: list[Document] = field(default_factory=list)  # those that began in the rows

    def add(self, batch: Batch, counts: Counts) -> None:
        self.counts += counts
        used = batch.document[:, 0] >= 0
        self.rows += int(used.sum())
        self.padding += int((batch.document[used] < 0).sum())

    @property
    def positions(self) -> int:
        return self.rows * self.length

    def by_source(self, mixture: Mixture) -> list[dict]:
        """One row a source: drawn of how many, and what was packed of it."""
        skipped: Counter[str] = Counter()
        for (name, _), count in self.counts.skipped.items():
            skipped[name] += count
        rows = []
        for source in mixture.sources:
            mine = [d for d in self.documents if d.source == source.name]
            tokens = sum(d.packed for d in mine)
            sums = {"tokens": tokens, "learnt": sum(d.learnt for d in mine), "images": sum(d.images for d in mine)}
            share = tokens / max(1, self.counts.tokens)
            row = {"source": clean(source.name), "size": len(source), "drawn": self.counts.drawn[source.name]}
            rows.append(row | {"skipped": skipped[source.name], "shown": len(mine), "share": share} | sums)
        return rows

    def quantiles(self) -> dict[str, list[float]]:
        """Of tokens and of images a sample."""
        values = {"tokens a sample": [d.tokens for d in self.documents], "images a sample": [d.frames for d in self.documents]}
        return {k: np.quantile(v, QUANTILES, method="nearest").tolist() for k, v in values.items() if v}

    def longest(self) -> list[Document]:
        return sorted(self.documents, key=lambda d: -d.tokens)[:LONGEST]


def clean(text: str) -> str:
    """Another's name, fit for a terminal and a line."""
    text = printable(text).replace("\n", "\\n")
    return text if len(text) <= KEY else f"{text[:KEY]}…"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def report(summary: Summary, mixture: Mixture, faults: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    """The lines that the command prints."""
    counts, n = summary.counts, len(summary.documents)
    yield from _table(summary.by_source(mixture))
    yield f"rows: {summary.rows:,} of {summary.length:,} tokens, padding {share(summary.padding, summary.positions)}"
    learnt = share(counts.learnt, counts.tokens)
    yield f"in them: {n:,} samples, {counts.tokens:,} tokens, {counts.learnt:,} learnt ({learnt}), {counts.images:,} images"
    yield f"cut and gone on in a later row: {counts.cuts:,}; lost their end: {counts.truncated:,}"
    for name, values in summary.quantiles().items():
        said = ", ".join(f"{_level(q)} {v:,.0f}" for q, v in zip(QUANTILES, values, strict=True))
        yield f"{name}: {said}"
    if summary.documents:
        yield "longest: " + "; ".join(f"{clean(d.key)} ({clean(d.source)}) {d.tokens:,}" for d in summary.longest())
    for (name, reason), count in sorted(counts.skipped.items()):
        yield f"skipped: {count:,} of {clean(name)}: {clean(reason)}"
    yield from (f"note: {clean_note(note)}" for note in notes)
    yield from (f"FAULT: {fault}" for fault in faults)
    if not faults:
        yield "masks: labels, positions and images agree with the tokens in every row"


def clean_note(note: str) -> str:
    return printable(note).replace("\n", "\\n")[:500]


def _level(q: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(q, f"{100 * q:.0f} %")


def _table(rows: Sequence[dict]) -> Iterator[str]:
    names = ("source", "size", "drawn", "skipped", "images", "tokens", "learnt")
    cells = [names, *([str(r["source"]), *(f"{r[n]:,}" for n in names[1:])] for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    for row in cells:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join((first, *rest))
