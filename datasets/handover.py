"""Pictures from a data worker to the process that trains, in shared memory that is used again.

Fresh shared memory costs a page fault for every 4 KiB on both sides, and each tensor in it a connection and an open file. So a
worker writes the pictures of its parts into few buffers in turn, and sends a buffer itself only when it is new. It is asked for
one more part whenever one is received, so it is never more than `AHEAD` parts beyond that one: with a buffer more than that
nothing is written where somebody reads, if the receiver copies what it takes before it asks for the next part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

AHEAD = 2  # parts that a worker may have ready: the DataLoader's `prefetch_factor`


@dataclass(frozen=True)
class Parcel:
    """Where pictures lie: at the beginning of a buffer."""

    place: tuple[int, int]  # worker, and number of its buffer
    shape: tuple[int, ...]
    buffer: Tensor | None  # [bytes] uint8; when it is new


class Sender:
    """A worker's side."""

    def __init__(self, worker: int) -> None:
        self._worker, self._sent = worker, 0
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * (AHEAD + 1)

    def put(self, images: list[Tensor]) -> Parcel:
        """uint8 [N, 3, H, W], any number of them: written one below the other."""
        shape = (sum(map(len, images)), *images[0].shape[1:])
        size, number = math.prod(shape), self._sent % len(self._buffers)
        new = self._sent < len(self._buffers) or self._buffers[number].numel() < size
        if new:
            self._buffers[number] = torch.empty(size * 5 // 4, dtype=torch.uint8).share_memory_()  # numbers of pictures vary
        buffer = self._buffers[number]
        torch.cat(images, out=buffer[:size].view(shape))
        self._sent += 1
        return Parcel((self._worker, number), shape, buffer if new else None)


class Receiver:
    """The other side, of all workers."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int], Tensor] = {}

    def take(self, parcel: Parcel) -> Tensor:
        """[N, 3, H, W], valid until that worker's next part is asked for."""
        if parcel.buffer is not None:
            self._buffers[parcel.place] = parcel.buffer
        return self._buffers[parcel.place][: math.prod(parcel.shape)].view(parcel.shape)
