"""Where the samples of a tar shard are: two numbers each, found once by walking the headers.

The index is kept beside the shard (`.NAME.tar.index.json`) and used again while the shard's size and time agree. Members with
absolute names, `..`, links and devices are passed over and counted; a shard that was cut off gives the whole members before
the cut.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from webdataset.tariterators import base_plus_ext

MAX_HEADER = 1 << 20  # bytes: tar's extended headers may claim any size
BLOCK = 512  # bytes, tar's unit
BROKEN = (tarfile.TarError, ValueError, OverflowError)  # what tarfile raises for a header; the latter two for PAX numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the samples of one shard are."""

    samples: list[int]  # first byte and end of each sample, one after the other
    cut: bool  # the archive ends before its end mark
    skipped: dict[str, int]  # members passed over, by reason


def index_shard(path: Path) -> ShardIndex:
    """The shard's index: kept from before, or made and kept where the folder can be written to."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    kept = path.with_name(f".{path.name}.index.json")
    try:
        record = json.loads(kept.read_bytes())
        if record.pop("stamp") == stamp:
            return _checked(ShardIndex(**record), stat.st_size)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # none yet, or not one of ours: made anew
    index = _scan(path, stat.st_size)
    part = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps({"stamp": stamp, **asdict(index)}))
        part.replace(kept)
    except OSError:
        log.debug("the index of %s cannot be kept: its folder is not writable", path)
    return index


def refused(member: tarfile.TarInfo) -> str | None:
    """Why a member is passed over; `None` when it belongs to a sample."""
    name = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        return "no plain file"
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        return "name leads elsewhere"
    return None if base_plus_ext(member.name)[0] else "name without a key and an extension"


class _Headers(io.FileIO):
    """A file that gives out headers but nothing larger, whatever the archive claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def _scan(path: Path, size: int) -> ShardIndex:
    samples: list[int] = []
    skipped: Counter[str] = Counter()
    last_key, end = None, 0
    for start, stop, member in _members(path):
        if stop > size:
            break
        end = stop
        reason = refused(member)
        key = None if reason else base_plus_ext(member.name)[0]
        if reason:
            skipped[reason] += not member.isdir()
        elif key == last_key:
            samples[-1] = stop
        else:
            samples += (start, stop)
            last_key = key
    with path.open("rb") as file:
        file.seek(end)
        cut = file.read(BLOCK) != bytes(BLOCK)
    return ShardIndex(samples, cut, dict(+skipped))


def _members(path: Path) -> Iterator[tuple[int, int, tarfile.TarInfo]]:
    """(first byte, end, member) of each member, extended headers included, up to the first that cannot be read."""
    start = 0
    try:
        with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                stop = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else tar.offset
                yield start, stop, member
                start = stop
                tar.members = []  # type: ignore[attr-defined]  # tarfile would remember them all
    except BROKEN:
        return  # the caller sees that the end mark is missing


def _checked(index: ShardIndex, size: int) -> ShardIndex:
    """Raises `ValueError` for an index that does not describe a file of `size` bytes."""
    numbers = index.samples
    ascending = all(a <= b for a, b in itertools.pairwise([0, *numbers, size]))
    if len(numbers) % 2 or not all(type(n) is int for n in numbers) or not ascending or not isinstance(index.skipped, dict):
        raise ValueError("not an index of this shard")
    return index
