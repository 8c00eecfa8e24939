"""A thread that is ahead: the next items are made while the last one is used.

They come in the same order, and what making them raises is raised where its item would have come. One item is ready and one
more is being made or waits for its place, so an iterator is at most two items ahead; what belongs to an item (the data's
state) has to travel in it. The thread keeps nothing alive: it ends when the iterator is dropped, and with the process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 5.0  # seconds that the one who drops the iterator waits for the thread, as torch does for each of its workers


@dataclass(frozen=True)
class _Raised:
    error: BaseException


class _End:
    """After the last item."""


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """`items`, an iterator that nobody else uses from here on, by a thread that begins at the first `next`."""
    ready: queue.Queue[T | _Raised | _End] = queue.Queue(maxsize=1)
    stop = threading.Event()
    thread = threading.Thread(target=_fetch, args=(items, ready, stop), name="prefetch", daemon=True)
    del items  # the thread's alone: with it they are closed
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _Raised):
                raise item.error
            if isinstance(item, _End):
                return
            yield item
    finally:
        stop.set()
        while not ready.empty():  # room for what the thread has in its hands
            ready.get_nowait()
        thread.join(PATIENCE)


def _fetch(items: Iterator[T], ready: queue.Queue[T | _Raised | _End], stop: threading.Event) -> None:
    try:
        for item in items:
            ready.put(item)
            if stop.is_set():
                return
        ready.put(_End())
    except BaseException as error:  # whatever it is, the other thread is to know
        ready.put(_Raised(error))
