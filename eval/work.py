"""Sharing an evaluation's items among processes without a collective: whoever is free takes the next chunk.

A chunk is taken by locking one byte of a file (POSIX record locks, which network file systems know too); the kernel gives it
back when its owner ends, in whatever way, so that another process goes on with what a dead one left. What was finished is in
the records, which all processes read; a process that finds a chunk free looks there first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
POLL = 0.2  # seconds


def lock(file: int, path: Path, byte: int, *, shared: bool = False) -> bool:
    """Lock one byte of an open file until it is closed; False when another process has it. Raises `OSError` naming the path
    where the file system knows no locks."""
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise OSError(error.errno, f"cannot be locked ({error.strerror}): choose another --out", str(path)) from None
    return True


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that `torchrun` started: `rank` of `world`, the `local`-th of its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        return cls(
            *(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        )


class Chunks(Generic[T]):
    """Items in chunks that processes take one by one. `done(item)` reads the records; `refresh()` brings these up to date."""

    def __init__(
        self, path: Path, items: Sequence[T], size: int, done: Callable[[T], bool], refresh: Callable[[], object]
    ) -> None:
        self.chunks = [items[i : i + size] for i in range(0, len(items), size)]
        self.done, self.refresh = done, refresh
        self.mine: set[int] = set()
        self.path, self.file = path, os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def __enter__(self) -> Chunks[T]:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)  # gives every lock back

    def take(self) -> Iterator[T]:
        """What is left to do in the chunks that nobody else has, one after another, until every chunk is taken."""
        for index, chunk in enumerate(self.chunks):
            self._give_back()
            if self._take(index):
                self.refresh()
                yield from [item for item in chunk if not self.done(item)]

    def left(self) -> int:
        """Items that are not done yet."""
        self.refresh()
        return sum(not self.done(item) for chunk in self.chunks for item in chunk)

    def wait(self, patience: float, work: Callable[[], object]) -> int:
        """Until all is done by whoever has it; `work()` does what became free since its owner ended. Returns how many items
        are missing when nothing has come for `patience` seconds, else 0."""
        left, since = self.left(), time.monotonic()
        while left and time.monotonic() - since < patience:
            work()
            time.sleep(POLL)
            before, left = left, self.left()
            since = time.monotonic() if left < before else since
        return left

    def _take(self, index: int) -> bool:
        if index in self.mine or all(map(self.done, self.chunks[index])):
            return False
        if not lock(self.file, self.path, index):
            return False
        self.mine.add(index)
        return True

    def _give_back(self) -> None:
        """The chunks of which all is recorded."""
        for index in [index for index in self.mine if all(map(self.done, self.chunks[index]))]:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, index)
            self.mine.remove(index)
