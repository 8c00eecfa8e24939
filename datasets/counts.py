"""What went into some rows, and what did not: figures that add up over lanes, workers, ranks and steps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Skip(NamedTuple):
    """One sample that was left out, and why; `detail` says which and what, in one line."""

    source: str
    reason: str
    detail: str


@dataclass
class Counts:
    """`+=` adds two of them."""

    positions: int = 0  # places for tokens, padding among them
    tokens: int = 0
    learnt: int = 0  # labels that are not IGNORE
    images: int = 0  # frames
    documents: int = 0  # begun in these rows
    cuts: int = 0  # pieces that end before their document does
    truncated: int = 0  # documents that lost their end
    cropped: int = 0  # tokens of those ends
    drawn: Counter[str] = field(default_factory=Counter)  # samples by source, skipped ones included
    source_tokens: Counter[str] = field(default_factory=Counter)
    source_images: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (source, reason)
    examples: list[Skip] = field(default_factory=list, compare=False)  # the first of each (source, reason) that a process met

    def __iadd__(self, other: Counts) -> Counts:
        for f in dataclasses.fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self
