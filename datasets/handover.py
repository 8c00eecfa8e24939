"""Pictures from a data worker to the process that trains, in shared memory that is used again.

Fresh shared memory costs a page fault for every 4 KiB on both sides, and each tensor in it a connection and an open file. So a
worker writes the pictures of its parts into few buffers in turn, and sends a buffer itself only when it is new. It is asked for
one more part whenever one is received, so it is never more than `AHEAD` parts beyond that one: with a buffer more than that
nothing is written where somebody reads, if the receiver has copied what it takes before it asks for the next part. A copy that
a GPU makes by itself counts when it is finished: `Destination.send` waits for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.batch import Batch

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

    def room(self, shape: tuple[int, ...]) -> tuple[Tensor, Parcel]:
        """Where the pictures of the next part are to be written, uint8 [N, 3, H, W], and what is sent of them."""
        size, number = math.prod(shape), self._sent % len(self._buffers)
        new = self._sent < len(self._buffers) or self._buffers[number].numel() < size
        if new:
            self._buffers[number] = torch.empty(size * 5 // 4, dtype=torch.uint8).share_memory_()  # numbers of pictures vary
        buffer = self._buffers[number]
        self._sent += 1
        return buffer[:size].view(shape), Parcel((self._worker, number), shape, buffer if new else None)


class Destination:
    """Where batches go: here the memory of the process that trains, pictures by a copy."""

    def register(self, buffer: Tensor) -> None:
        """From now on a worker writes into `buffer`, [bytes] uint8 in shared memory."""

    def unregister(self, buffer: Tensor) -> None:
        """It is not read any more."""

    def join(self, images: list[Tensor]) -> Tensor:
        """[N, 3, H, W]: pictures of several parts, one below the other, in memory of their own."""
        return torch.cat(images)

    def send(self, batch: Batch) -> Batch:
        """The batch where it goes, with its `extent`; nothing is read any more from where it was. Any thread may call this."""
        return batch

    def receive(self, batch: Batch) -> None:
        """To be called with what `send` gave, by the thread that will use it."""


class Receiver:
    """The other side, of all workers."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._buffers: dict[tuple[int, int], Tensor] = {}

    def take(self, parcel: Parcel) -> Tensor:
        """[N, 3, H, W], valid until that worker's next part is asked for."""
        if parcel.buffer is not None:
            if parcel.place in self._buffers:
                self._destination.unregister(self._buffers[parcel.place])
            self._destination.register(parcel.buffer)
            self._buffers[parcel.place] = parcel.buffer
        return self._buffers[parcel.place][: math.prod(parcel.shape)].view(parcel.shape)

    def close(self) -> None:
        """Nothing that was taken is valid any more."""
        while self._buffers:
            self._destination.unregister(self._buffers.popitem()[1])
