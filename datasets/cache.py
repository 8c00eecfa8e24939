"""Where this machine keeps what it makes once: shards fetched from afar, and indices that cannot lie beside their shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path("~/.cache/flamingo-moe/shards")  # $VLM_CACHE goes before it


def cache_folder(chosen: Path | None = None) -> Path:
    return Path(chosen or os.environ.get("VLM_CACHE") or CACHE).expanduser()


@contextmanager
def alone(file: int) -> Iterator[None]:
    """One process of this machine at a time holds the lock of an open file; it ends with the process, however that ends.

    Where the file system has no locks all go on: they do the same work, and each publishes it whole.
    """
    if not _lock(file, wait=True):
        yield
        return
    try:
        yield
    finally:
        _unlock(file)


def take(file: int) -> bool:
    """Lock an open file until it is closed; `False` when another has it, or nobody can."""
    return _lock(file, wait=False)


def _lock(file: int, *, wait: bool) -> bool:
    import fcntl  # of Unix alone

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(file: int) -> None:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)
