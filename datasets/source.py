"""Where samples come from: random access by (epoch, index), as a pure function.

That is all that exact resume, any number of workers and any number of ranks need: the loader keeps numbers, never a stream.
The order within an epoch is the source's business; `permuted` gives a seeded one without a table, so that a source of a
billion samples costs no memory.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from vlm.sample import Sample

_MASK = (1 << 64) - 1


class BadSample(Exception):  # noqa: N818 - the sample is bad, not the program
    """A sample that cannot be used: skipped and counted under `reason` (a short class); `detail` says which and what."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both as arguments: pickled whole on its way out of a worker
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@runtime_checkable
class Source(Protocol):
    """A named set of `len()` samples, seen as often as a mixture asks."""

    name: str

    def __len__(self) -> int:
        """Samples in one epoch."""
        ...

    def get(self, epoch: int, index: int) -> Sample:
        """Sample `index` of `epoch`; the same for the same arguments, always. Raises `BadSample`."""
        ...


@runtime_checkable
class OfFiles(Protocol):
    """A source whose samples are others when its files are: `fingerprint` tells."""

    fingerprint: str


def permuted(index: int, length: int, seed: int, epoch: int) -> int:
    """Where `index` lands in a pseudo-random permutation of range(length) that belongs to (seed, epoch).

    A Feistel network of four rounds over the next power of four, walked until it falls inside the range (Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): no table, a few microseconds.
    """
    if not 0 <= index < length:
        raise IndexError(f"index {index} is outside an epoch of {length} samples")
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    key = _mix(_mix(seed) ^ epoch)
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(key + (turn << 56) + right) & mask)
        index = left << half | right
        if index < length:
            return index


def permuted_blocks(index: int, length: int, block: int, seed: int, epoch: int) -> int:
    """As `permuted`, but neighbours stay near: blocks of `block` in a seeded order, and each in an order of its own.

    The samples over, fewer than a block, have a seeded place among the blocks.
    """
    whole, over = divmod(length, block)
    behind = _mix(_mix(seed) ^ epoch) % (whole + 1) * block  # how many come before those over
    if behind <= index < behind + over:
        return whole * block + permuted(index - behind, over, seed, epoch)
    place, inside = divmod(index if index < behind else index - over, block)
    number = permuted(place, whole, seed, epoch)
    return number * block + permuted(inside, block, _mix(seed) + number, epoch)


def _mix(x: int) -> int:
    """SplitMix64's finalizer (Steele et al., 2014): every bit of `x` reaches every bit of the result."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
