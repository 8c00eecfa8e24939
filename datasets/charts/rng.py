"""Random numbers that are a function of a key: the same key gives the same draws on every machine and Python version.

A key (seed, split, index, purpose) is hashed into the seed of a Mersenne Twister, and every draw is made from
`random()` alone, the one method whose sequence Python guarantees. So any sample can be made without the ones before it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of draws named by `key` (ints and strings)."""

    def __init__(self, *key: int | str) -> None:
        digest = blake2b(repr(key).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, share: float) -> bool:
        return self._random() < share

    def integer(self, low: int, high: int) -> int:
        """Uniform over low … high, both included."""
        return low + int((high - low + 1) * self._random())

    def pick(self, items: Sequence[T]) -> T:
        return items[int(len(items) * self._random())]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        pool = list(items)
        for i in range(count):
            j = i + int((len(pool) - i) * self._random())
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """A key, with probability in proportion to its weight."""
        left = self._random() * sum(weights.values())
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return next(item for item in reversed(list(weights)) if weights[item] > 0)
