"""Finding what is nearly equal without comparing everything with everything: signatures, cut into bands.

Texts: MinHash (Broder, 1997) of word shingles, 128 values; two signatures agree in a share of places that estimates the
Jaccard similarity J of the texts' shingles, with a standard deviation of at most 0.044. 32 bands of 4 values: a pair of J = 0.5
meets in at least one band with probability 1 - (1 - J^4)^32 = 0.87, one of 0.6 with 0.99, one of 0.2 with 0.05, and those that
meet are compared in full. Three words a shingle: one word in ten changed leaves J = 0.57.

The index is ours because of its memory: `datasketch.MinHashLSH` 2.0 takes 10.5 kB a document with these settings, this one
0.8 kB (chained hash tables in arrays), and it serves pictures as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.quality.words import Hashes, mixed

PERMUTATIONS, BANDS = 128, 32
MAX_CHAIN = 64  # entries of one bucket looked at, newest first: boilerplate makes some buckets very long
_rng = np.random.default_rng(1997)
_FACTORS = _rng.integers(0, 1 << 63, PERMUTATIONS, np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _rng.integers(0, 1 << 63, PERMUTATIONS, np.uint64)
_AT_ONCE = 2048  # shingles: 2 MB of products, which stay in the cache


def minhash(shingles: Hashes, signature: NDArray[np.uint32] | None = None) -> NDArray[np.uint32]:
    """[128] of hashed shingles; `signature` is that of the document so far."""
    least = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32) if signature is None else signature
    for start in range(0, len(shingles), _AT_ONCE):
        products = shingles[start : start + _AT_ONCE, None] * _FACTORS + _OFFSETS  # modulo 2^64
        least = np.minimum(least, (products.min(axis=0) >> np.uint64(32)).astype(np.uint32))
    return least


class BandIndex:
    """Signatures [width] of unsigned numbers, numbered as they come; finds those that share a band with another.

    The bands cut up the first `keyed` numbers (default: all). A chained hash table a band: `_heads` [bands, slots] the newest
    of a slot, `_next` [signatures, bands] the one before it.
    """

    def __init__(self, width: int, bands: int, dtype: type[np.unsignedinteger], keyed: int | None = None) -> None:
        self.bands, self.keyed, self._count = bands, keyed or width, 0
        self._band = np.arange(bands)
        self._signatures = np.zeros((1024, width), dtype)
        self._next = np.full((1024, bands), -1, np.int32)
        self._heads = np.full((bands, 1024), -1, np.int32)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._signatures.nbytes + self._next.nbytes + self._heads.nbytes

    def candidates(self, signature: NDArray) -> tuple[NDArray[np.int32], NDArray]:
        """Numbers [n], ascending, and signatures [n, width] of those that may share a band with `signature` [width]."""
        found = [np.zeros(0, np.int32)]
        places = self._heads[self._band, self._slots(signature)]
        for _ in range(MAX_CHAIN):
            live = places >= 0
            if not live.any():
                break
            found.append(places[live])
            places = np.where(live, self._next[places, self._band], -1)
        numbers = np.unique(np.concatenate(found))
        return numbers, self._signatures[numbers]

    def add(self, signature: NDArray) -> int:
        """Returns its number."""
        if self._count == len(self._signatures):
            self._grow()
        number, slots = self._count, self._slots(signature)
        self._signatures[number] = signature
        self._next[number] = self._heads[self._band, slots]
        self._heads[self._band, slots] = number
        self._count += 1
        return number

    def _slots(self, signatures: NDArray) -> NDArray[np.int64]:
        """[..., width] → [..., bands]"""
        rows = signatures[..., : self.keyed].reshape(*signatures.shape[:-1], self.bands, -1).astype(np.uint64)
        key = np.zeros(rows.shape[:-1], np.uint64)
        for row in range(rows.shape[-1]):
            key = mixed(key + rows[..., row] + np.uint64(1))
        return (key & np.uint64(self._heads.shape[1] - 1)).astype(np.int64)

    def _grow(self) -> None:
        self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._next = np.full((len(self._signatures), self.bands), -1, np.int32)
        self._heads = np.full((self.bands, len(self._signatures)), -1, np.int32)
        for start in range(0, self._count, 1 << 16):
            numbers = np.arange(start, min(start + (1 << 16), self._count))
            self._link(numbers, self._slots(self._signatures[numbers]))

    def _link(self, numbers: NDArray, slots: NDArray[np.int64]) -> None:
        """As `add` of many, in order: within a slot each points at the one before it."""
        for band in range(self.bands):
            order = np.argsort(slots[:, band], kind="stable")
            sorted_slots, members = slots[order, band], numbers[order]
            first = np.append(True, sorted_slots[1:] != sorted_slots[:-1])
            before = np.append(-1, members[:-1])
            self._next[members, band] = np.where(first, self._heads[band, sorted_slots], before)
            last = np.append(first[1:], True)
            self._heads[band, sorted_slots[last]] = members[last]
