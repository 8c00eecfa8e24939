"""Text as words, words as 64-bit numbers, stretches of words as sums of these: what every text rule here works on.

Words are compared after NFKC and lower-casing. A character of a script without spaces (Chinese, Japanese) is a word of its own.
Hashes are BLAKE2b of the word, so that they agree between runs and machines; a cache of bounded size makes them cheap. Text is
walked in chunks, so that a document of any length takes the memory of one chunk.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.text import chunks

CHUNK = 100_000  # characters walked at once
CACHE = 500_000  # words, about 80 MB
LONGEST = 64  # characters of a word that is worth caching
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_STEP = 0x9E3779B97F4A7C15  # an odd number: a stretch is a polynomial in it, modulo 2^64

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a document: as written, normalised, as words, as their hashes [words]."""

    text: str
    normal: str
    words: list[str]
    hashes: Hashes


def normalise(text: str) -> str:
    """NFKC and lower case: what looks alike is alike."""
    return unicodedata.normalize("NFKC", text).lower()


def words(text: str) -> list[str]:
    return _WORD.findall(normalise(text))


class _Cache(dict):
    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        if len(self) >= CACHE:
            self.clear()
        if len(word) <= LONGEST:
            self[word] = value
        return value


_cache = _Cache()


def word_hashes(split: list[str]) -> Hashes:
    """[words] of a list of words."""
    return np.fromiter(map(_cache.__getitem__, split), np.uint64, len(split))


def walk(text: str) -> Iterator[Chunk]:
    """The document's chunks, in order."""
    for chunk in chunks(text, CHUNK):
        normal = normalise(chunk)
        split = _WORD.findall(normal)
        yield Chunk(chunk, normal, split, word_hashes(split))


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """[max(0, words - n + 1)] hashes of all stretches of `n` neighbouring words."""
    count = max(0, len(hashes) - n + 1)
    total = np.zeros(count, np.uint64)
    for place in range(n):
        total = total * np.uint64(_STEP) + hashes[place : place + count]
    return mixed(total)


def walk_ngrams(text: str, n: int) -> Iterator[Hashes]:
    """The n-grams of a document chunk by chunk, those across a boundary too."""
    before = np.zeros(0, np.uint64)
    for chunk in walk(text):
        joined = np.concatenate([before, chunk.hashes])
        yield ngrams(joined, n)
        before = joined[len(joined) - min(len(joined), n - 1) :]


def mixed(values: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele et al., 2014): every bit reaches every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def matches(values: Hashes, known: Hashes) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `values` [n] are among the sorted `known`, and the first place of each there (of one that is not: any)."""
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return (known[places] == values if len(known) else np.zeros(len(values), bool)), places


class Digest:
    """16 bytes that agree for texts which differ in case, width of characters and white space alone."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, chunk: Chunk) -> None:
        self._hash.update((" ".join(chunk.normal.split()) + " ").encode("utf-8", "surrogatepass"))

    @property
    def value(self) -> bytes:
        return self._hash.digest()
