"""What a tar shard holds, found by walking its headers: nothing of its contents is read, whatever the archive claims.

Members with absolute names, `..`, links and devices are passed over and counted; a shard that was cut off gives the whole
members before the cut. A member whose extension comes again under one key begins a new sample, and so does an archive that was
appended to another.
"""

from __future__ import annotations

import array
import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from annotated_types import Ge, MaxLen
from pydantic import StringConstraints
from webdataset.tariterators import base_plus_ext

MAX_HEADER = 1 << 20  # bytes: tar's extended headers may claim any size
MAX_SAMPLE = 256 << 20  # bytes of one sample, all its frames together
BLOCK = 512  # bytes, tar's unit
EXAMPLES = 5  # members passed over that are named, of each reason
BROKEN = (tarfile.TarError, ValueError, OverflowError)  # what tarfile raises for a header; the latter two for PAX numbers
FILL = 1 << 20  # bytes of zeros behind an end mark that are looked through for another archive
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}

Stamp = tuple[int, int, int]  # bytes, time of the last change in nanoseconds, and inode: clocks tick in milliseconds
Reason = Literal["no plain file", "name leads elsewhere", "name without a key and an extension"]
Name = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,200}$")]  # printable: it will stand in a log


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a shard beside the places of its samples: the line an index begins with."""

    stamp: tuple[int, int]  # without the inode: copies may bring their indices
    samples: Annotated[int, Ge(0)]
    cut: bool  # the archive ends before its end mark
    skipped: dict[Reason, Annotated[int, Ge(1)]]  # members passed over
    examples: dict[Reason, Annotated[list[Name], MaxLen(EXAMPLES)]]  # names of the first of them
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]  # of all members' names, sizes and headers


def stamp_of(status: os.stat_result) -> Stamp:
    """What a shard that takes another's place does not share with it."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def refused(member: tarfile.TarInfo) -> Reason | None:
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


class _Walk:
    """What a walk over the members has found so far."""

    def __init__(self) -> None:
        self.places = array.array("q")
        self.skipped: Counter[Reason] = Counter()
        self.examples: dict[Reason, list[str]] = {}
        self._hash = hashlib.blake2b(digest_size=16)
        self._key: str | None = None  # of the sample that goes on
        self._extensions: set[str] = set()

    def add(self, start: int, stop: int, member: tarfile.TarInfo) -> None:
        self._hash.update(f"{member.name}\0{member.size}\0{member.chksum}\n".encode("utf-8", "backslashreplace"))
        if reason := refused(member):
            self._pass_over(member, reason)
            return
        key, extension = base_plus_ext(member.name)
        if key == self._key and extension.lower() not in self._extensions:
            self.places[-1] = stop
        else:
            self.places.extend((start, stop))
            self._key, self._extensions = key, set()
        if stop - self.places[-2] <= MAX_SAMPLE:  # beyond, it is refused anyway
            self._extensions.add(extension.lower())

    def end_archive(self) -> None:
        self._key = None

    def _pass_over(self, member: tarfile.TarInfo, reason: Reason) -> None:
        if member.isdir():
            return
        self.skipped[reason] += 1
        if self.skipped[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append(ascii(member.name)[1:-1][:200])

    def facts(self, stamp: Stamp, cut: bool) -> Facts:
        return Facts(stamp[:2], len(self.places) // 2, cut, dict(self.skipped), self.examples, self._hash.hexdigest())


def scan(path: Path) -> tuple[Facts, array.array[int]]:
    """Walk the headers: what the shard holds, and first byte and end of each sample, one after the other."""
    walk, end = _Walk(), 0
    with _Headers(path) as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        _check_plain(path, file.read(8))
        while True:
            for start, stop, member in _members(file, end):
                if stop > stamp[0]:
                    return walk.facts(stamp, cut=True), walk.places
                end = stop
                walk.add(start, stop, member)
            following = _next_archive(file, end)
            if following is None:
                file.seek(end)
                return walk.facts(stamp, cut=file.read(BLOCK) != bytes(BLOCK)), walk.places
            end = following
            walk.end_archive()


def _check_plain(path: Path, start: bytes) -> None:
    for mark, kind in _COMPRESSED.items():
        if start.startswith(mark):
            raise ValueError(f"shard {path} is compressed ({kind}): shards are plain tars, since no other has random access")


def _next_archive(file: _Headers, end: int) -> int | None:
    """Where another archive begins behind the end mark at `end`, as `cat A B` leaves it."""
    file.seek(end)
    behind = file.read(FILL)
    filled = len(behind) - len(behind.lstrip(b"\0"))
    if filled < BLOCK or filled == len(behind):
        return None
    return end + filled // BLOCK * BLOCK


def _members(file: _Headers, start: int) -> Iterator[tuple[int, int, tarfile.TarInfo]]:
    """(first byte, end, member) of each member, extended headers included, up to the first that cannot be read."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                stop = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else tar.offset
                yield start, stop, member
                start = stop
                tar.members = []  # type: ignore[attr-defined]  # tarfile would remember them all
    except BROKEN:
        return  # the caller sees that the end mark is missing
