"""Shards that are not files here: fetched whole, once, into a folder; from there on they are local shards.

Random access is what exact resume stands on, and no stream has it; so a shard is copied before it is indexed and stays where
it is. Addresses are those of fsspec (`s3://`, `https://`, `gs://`, `hf://`, …), those that webdataset opens besides (`ais://`),
and `pipe:command`, which runs a shell command and is refused unless the configuration allows it by name. A shard at an address
is taken never to change: remove the folder to fetch anew. The disk must hold all shards of a run.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import braceexpand
import fsspec
from webdataset.gopen import gopen, gopen_schemes

CHUNK = 1 << 20  # bytes copied at a time
CACHE = Path("~/.cache/flamingo-moe/shards")  # $VLM_CACHE goes before it

log = logging.getLogger(__name__)


def is_remote(path: str | Path) -> bool:
    return isinstance(path, str) and ("://" in path or path.startswith("pipe:"))


def fetch(url: str, cache: Path | None = None) -> Path:
    """The local copy of one shard, made now where there is none. Raises `ValueError` in one line when it cannot be had."""
    folder = Path(cache or os.environ.get("VLM_CACHE") or CACHE).expanduser()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", url.rsplit("/", 1)[-1])[-80:].removesuffix(".tar")
    path = folder / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():
                _copy(url, path)
    except Exception as error:  # every protocol and its library has exceptions of its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"shard {url} cannot be fetched: {why[:300]}") from None
    return path


def expand(url: str) -> list[str]:
    """All addresses that a pattern stands for, in order: braces (`{000..012}`) and, where the protocol can list, `*`."""
    if url.startswith("pipe:"):
        return [url]
    found = []
    for one in braceexpand.braceexpand(url):
        try:
            found += _glob(one) if "*" in one else [one]
        except Exception as error:
            raise ValueError(f"shards {one} cannot be listed: {' '.join(str(error).split())[:300]}") from None
    return found


def _glob(url: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(url)
    return sorted(system.unstrip_protocol(one) for one in system.glob(path))


def _copy(url: str, path: Path) -> None:
    part = path.with_suffix(".part")
    log.warning("fetching %s", url)
    try:
        with _open(url) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        if not part.stat().st_size:
            raise ValueError("nothing came")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> IO[bytes] | Any:
    scheme = url.partition(":")[0]
    if scheme != "pipe" and scheme in fsspec.available_protocols():
        return fsspec.open(url, "rb").open()
    if scheme not in gopen_schemes:
        raise ValueError(f"{scheme}: is no protocol that fsspec or webdataset opens")
    return gopen(url)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
