"""What was kept, to know it again: exact and near duplicates of samples, in bounded memory a sample.

Two samples are duplicates when their texts and, in order, their pictures are: two questions about one chart are not, nor is
one caption under two pictures. Texts under a few dozen words are only ever the same or not, since one changed number may be
all that sets two questions apart.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

import numpy as np

from datasets.quality.near import BANDS, PERMUTATIONS, BandIndex
from datasets.quality.reading import Reading

ENTRY = 180  # bytes of a dictionary's entry: a key of 16 bytes and a number, as objects, and their slot


@dataclass(frozen=True, slots=True)
class Repeat:
    """Why a sample is a duplicate, and the place of the kept sample that it repeats."""

    reason: str
    detail: str
    of: str


@dataclass(frozen=True, slots=True)
class Content:
    """A sample for comparison. `layout`: its segments' kinds, with the numbers of its pictures' looks; `files`: their bytes."""

    reading: Reading
    layout: bytes
    files: bytes

    @property
    def key(self) -> bytes:
        """16 bytes of the text and the looks."""
        return _digest(self.reading.digest + self.layout)


class Seen:
    """Kept samples by content. `similarity`: Jaccard, from which two texts of `min_words` or more are near duplicates."""

    def __init__(self, similarity: float, min_words: int) -> None:
        self.similarity, self.min_words = similarity, min_words
        self._exact: dict[bytes, int] = {}  # text and looks → number of the kept sample
        self._near = BandIndex(PERMUTATIONS, BANDS, np.uint32)
        self._near_owner, self._near_layout = array("Q"), array("Q")  # of each signature
        self._shards: list[str] = []
        self._shard, self._number, self._files = array("L"), array("Q"), array("Q")  # of each kept sample

    def __len__(self) -> int:
        return len(self._number)

    @property
    def nbytes(self) -> int:
        arrays = (self._near_owner, self._near_layout, self._shard, self._number, self._files)
        return self._near.nbytes + sum(a.itemsize * len(a) for a in arrays) + ENTRY * len(self._exact)

    def find(self, content: Content) -> Repeat | None:
        """The first kept sample with the same content, else the nearest one."""
        same = self._exact.get(content.key)
        if same is not None:
            if self._files[same] == _short(content.files):
                return Repeat("exact duplicate", "", self._place(same))
            return Repeat("near duplicate, pictures", "the same text under pictures that look the same", self._place(same))
        if content.reading.counts.words < self.min_words:
            return None
        numbers, signatures = self._near.candidates(content.reading.signature)
        layout = _short(content.layout)
        alike = (signatures == content.reading.signature).mean(axis=1)
        near = [(-a, n) for a, n in zip(alike, numbers.tolist(), strict=True) if self._near_layout[n] == layout]
        if not near or -min(near)[0] < self.similarity:
            return None
        likeness, nearest = min(near)
        return Repeat("near duplicate, text", f"similarity {-likeness:.2f}", self._place(self._near_owner[nearest]))

    def add(self, content: Content, shard: str, number: int) -> None:
        """Remember the sample that is the `number`-th of `shard`."""
        if not self._shards or self._shards[-1] != shard:
            self._shards.append(shard)
        if content.reading.counts.words >= self.min_words:
            self._near.add(content.reading.signature)
            self._near_owner.append(len(self))
            self._near_layout.append(_short(content.layout))
        self._exact[content.key] = len(self)
        self._shard.append(len(self._shards) - 1)
        self._files.append(_short(content.files))
        self._number.append(number)

    def _place(self, kept: int) -> str:
        return f"{self._shards[self._shard[kept]]}#{self._number[kept]}"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _short(data: bytes) -> int:
    """64 bits."""
    return int.from_bytes(_digest(data)[:8], "little")
