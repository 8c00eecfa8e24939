"""A thread that is ahead changes when things are made, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from train.prefetch import prefetched


class Made:
    """0, 1, 2, …: how many have been asked for, and whether it was closed."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.count, self.closed, self.fails_at = 0, False, fails_at

    def __iter__(self) -> Iterator[int]:
        try:
            while self.count != self.fails_at:
                self.count += 1
                yield self.count - 1
            raise KeyError("no more")
        finally:
            self.closed = True


def settled(made: Made) -> int:
    """How many items are made when no more are."""
    before = -1
    while made.count != before:
        before = made.count
        time.sleep(0.05)
    return before


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_come_in_order_and_at_most_two_are_ahead() -> None:
    made = Made()
    items = prefetched(iter(made))
    assert settled(made) == 0 and not threads()  # until the first is asked for
    for number in range(20):
        assert next(items) == number
        if number % 5 == 0:
            assert settled(made) == number + 3


def test_what_is_raised_comes_in_the_place_of_its_item() -> None:
    made = Made(fails_at=2)
    items = prefetched(iter(made))
    assert next(items) == 0
    assert settled(made) == 2
    assert next(items) == 1
    with pytest.raises(KeyError, match="no more"):
        next(items)
    assert made.closed and not threads()


@pytest.mark.parametrize("taken", [1, 5])
def test_the_thread_ends_when_the_iterator_is_dropped(taken: int) -> None:
    made = Made()
    items = prefetched(iter(made))
    for _ in range(taken):
        next(items)
    settled(made)
    assert len(threads()) == 1
    del items
    assert made.closed and not threads()


def test_it_ends_from_the_midst_of_making_one() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.3 * (number == 2))
            yield number

    items = prefetched(slow())
    next(items)
    time.sleep(0.1)  # the next is ready, and the one after it is being made
    del items
    assert not threads()


def test_the_process_ends_though_an_item_never_comes() -> None:
    script = (
        "import time; from train.prefetch import prefetched\n"
        "items = prefetched(time.sleep(1000 * n) or n for n in range(2))\n"
        "print(next(items))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n") and "Traceback" not in done.stderr
    assert time.monotonic() - started < 40


def test_a_finite_iterator_ends() -> None:
    assert list(prefetched(iter(range(5)))) == list(range(5))
