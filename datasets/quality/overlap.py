"""An evaluation set as an index, and what a training sample has in common with it.

Three kinds, each reported apart: a `picture` that looks the same (datasets/quality/pictures.py); a `question` that is the
same, word by word; a `text` that shares a stretch of N words, as for GPT-3 (Brown et al., 2020, appendix C): 13 words, or all
words of a shorter text, down to 8; shorter texts are only compared as whole questions. What every question has in common
(`Question:`, `Answer:`) is no part of any of them. In memory an n-gram takes 16 bytes, a picture 0.5 kB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datasets.quality.pictures import PictureHash, PictureIndex
from datasets.quality.stream import texts
from datasets.quality.words import Hashes, matches, mixed, ngrams, walk, walk_ngrams
from vlm.sample import Sample

LONGEST, SHORTEST = 13, 8  # words of a stretch
MAX_QUESTION = 100_000  # characters: what is longer is no question

Kind = Literal["picture", "question", "text"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of one training sample. Numbers are those of the evaluation samples, ascending."""

    pictures: dict[int, int] = field(default_factory=dict)  # number → distance in bits
    questions: set[int] = field(default_factory=set)
    texts: dict[int, set[tuple[int, int]]] = field(default_factory=dict)  # number → (N, which stretch), shared ones
    names: Sequence[str] = ()

    def first(self, kinds: Sequence[Kind]) -> tuple[Kind, str] | None:
        """The first kind among `kinds` that there is, and the name of the first evaluation sample."""
        found = {"picture": self.pictures, "question": self.questions, "text": self.texts}
        return next(((kind, self.names[min(found[kind])]) for kind in kinds if found[kind]), None)


class EvalIndex:
    """Built by `add` of each evaluation sample, then asked with `overlap`."""

    def __init__(self, max_distance: int) -> None:
        self.names: list[str] = []
        self.num_stretches = array("L")  # of each sample
        self._pictures = PictureIndex(max_distance)
        self._owners: list[list[int]] = []  # of each picture
        self._by_hash: dict[bytes, int] = {}
        self._questions: dict[int, list[int]] = {}
        self._new: dict[int, list[tuple[Hashes, int]]] = {}  # N → stretches of a sample
        self._grams: dict[int, tuple[Hashes, NDArray[np.int64]]] = {}  # N → sorted stretches, whose each is

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, sample: Sample, hashes: Sequence[PictureHash]) -> None:
        number = len(self.names)
        self.names.append(name)
        for hashed in hashes:
            known = self._by_hash.setdefault(hashed.tobytes(), len(self._owners))
            if known == len(self._owners):
                self._pictures.add(hashed)
                self._owners.append([])
            self._owners[known].append(number)
        for question in questions(sample):
            self._questions.setdefault(question, []).append(number)
        stretches = 0
        for text in texts(sample):
            n = min(LONGEST, sum(len(chunk.hashes) for chunk in walk(text.text)))
            if n >= SHORTEST:
                grams = np.unique(np.concatenate(list(walk_ngrams(text.text, n))))
                self._new.setdefault(n, []).append((grams, number))
                stretches += len(grams)
        self.num_stretches.append(stretches)

    def overlap(self, sample: Sample, hashes: Sequence[PictureHash]) -> Overlap:
        """What a training sample shares with the set; `hashes` are its pictures'."""
        self._sort()
        found = Overlap(names=self.names)
        for hashed in hashes:
            for distance, picture in self._pictures.find(hashed):
                for number in self._owners[picture]:
                    found.pictures[number] = min(distance, found.pictures.get(number, distance))
        for whole in _wholes(sample, asked=None):
            found.questions.update(self._questions.get(whole, ()))
        for text in texts(sample):
            for n in self._grams:
                for grams in walk_ngrams(text.text, n):
                    self._shared(grams, n, found)
        return found

    def _shared(self, grams: Hashes, n: int, found: Overlap) -> None:
        known, owners = self._grams[n]
        hit, places = matches(grams, known)
        for place in np.unique(places[hit]).tolist():
            for other in range(place, int(np.searchsorted(known, known[place], side="right"))):
                found.texts.setdefault(int(owners[other]), set()).add((n, place))

    def _sort(self) -> None:
        for n, stretches in self._new.items():
            known, owners = self._grams.get(n, (np.zeros(0, np.uint64), np.zeros(0, np.int64)))
            grams = np.concatenate([known, *(grams for grams, _ in stretches)])
            owners = np.concatenate([owners, *(np.full(len(grams), number) for grams, number in stretches)])
            order = np.argsort(grams, kind="stable")
            self._grams[n] = (grams[order], owners[order])
        self._new.clear()


def questions(sample: Sample) -> set[int]:
    """The texts that are given and not learnt, each as one number; of a sample without such, all of them."""
    return set(_wholes(sample, asked=True)) or set(_wholes(sample, asked=None))


def _wholes(sample: Sample, asked: bool | None) -> Iterator[int]:
    """A number for each text's sequence of words; `asked`: of those alone that are given and not learnt."""
    for text in texts(sample):
        if (asked is None or asked != text.learn) and len(text.text) <= MAX_QUESTION:
            chunks = [chunk.hashes for chunk in walk(text.text)]
            hashes = np.concatenate(chunks) if chunks else np.zeros(0, np.uint64)
            if len(hashes):
                yield int(mixed(ngrams(hashes, len(hashes)) + np.uint64(len(hashes)))[0])
