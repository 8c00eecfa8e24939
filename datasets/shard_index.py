"""Where the samples of a tar shard are: two numbers each, found once by walking the headers.

The index is kept beside the shard (`.NAME.tar.index`), or in the machine's cache where that folder cannot be written to, and
used again while the shard's size and time agree: a line of JSON, padded, then first byte and end of each sample as 64-bit
integers. Opening a shard reads the line alone, a sample's two numbers are read when it is: a billion samples cost no memory.
The file lies where the shard lies, so it is read as warily.
"""

from __future__ import annotations

import array
import functools
import hashlib
import logging
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from datasets.cache import alone, cache_folder
from datasets.shard_scan import BLOCK, Facts, Stamp, scan, stamp_of

LINE = 8192  # bytes of an index before its numbers
PAIR = 16  # bytes of a sample in an index

log = logging.getLogger(__name__)

_FACTS = TypeAdapter(Facts)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the samples of one shard are: in `file`, or, where none could be written, in `places`."""

    shard: Path
    stamp: Stamp
    facts: Facts
    file: Path | None = None
    places: array.array[int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.facts.samples

    def place(self, number: int) -> tuple[int, int]:
        """First byte and end of a sample. Raises `ValueError` where the index can no longer be used."""
        if self.file is None:
            assert self.places is not None
            return self.places[2 * number], self.places[2 * number + 1]
        start, stop = self._kept_place(number, self.file)
        if not 0 <= start <= stop - BLOCK <= self.facts.stamp[0] - BLOCK:
            raise ValueError(f"index {self.file} of shard {self.shard} is damaged: a start without it makes it anew")
        return start, stop

    def _kept_place(self, number: int, file: Path) -> tuple[int, int]:
        try:
            with file.open("rb", buffering=0) as opened:
                opened.seek(LINE + PAIR * number)
                return _numbers(opened.read(PAIR))
        except FileNotFoundError:  # somebody tidied up
            again = index_shard(self.shard)
            return again.place(number) if again.facts == self.facts else (0, 0)
        except OSError:
            return 0, 0


def index_shard(path: Path) -> ShardIndex:
    """The shard's index: kept from before, or made and kept. Raises `ValueError` for what is no plain file or is compressed."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"shard {path} is no file")
    index = _index(path, stamp_of(status))
    if index.file is not None and not index.file.exists():
        _index.cache_clear()
        return _index(path, stamp_of(status))
    return index


@functools.lru_cache(maxsize=1 << 16)
def _index(path: Path, stamp: Stamp) -> ShardIndex:
    """A process opens a shard for many sources and stages, and reads its index once."""
    files = _files(path)
    index = _kept(path, stamp, files)
    if index is not None:
        return index
    with path.open("rb") as shard, alone(shard.fileno()):  # ranks begin together: one walks
        index = _kept(path, stamp, files)
        if index is not None:
            return index
        facts, places = scan(path)
        file = _keep(files, facts, places)
        return ShardIndex(path, stamp, facts, file, None if file else places)


def _files(path: Path) -> tuple[Path, Path]:
    """Where an index may lie: beside its shard, else in the cache."""
    place = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return index_beside(path), cache_folder() / "indices" / f"{path.name}-{place}.index"


def index_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.index")


def _kept(path: Path, stamp: Stamp, files: tuple[Path, ...]) -> ShardIndex | None:
    for file in files:
        try:
            return ShardIndex(path, stamp, _read(file, stamp), file)
        except (OSError, ValueError):
            continue  # none yet, or not one of ours: made anew
    return None


def _read(file: Path, stamp: Stamp) -> Facts:
    """Raises `ValueError` for what is not the index of a shard with this stamp."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no file")
    with file.open("rb") as opened:
        facts = _FACTS.validate_json(opened.read(LINE), strict=True)
    if facts.stamp != stamp[:2] or status.st_size != LINE + PAIR * facts.samples or facts.samples * BLOCK > stamp[0]:
        raise ValueError("not an index of this shard")
    return facts


def _keep(files: tuple[Path, ...], facts: Facts, places: array.array[int]) -> Path | None:
    """The first of `files` that can be written: whole or not at all, since a kill or a full disk may come at any time."""
    for file in files:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as out:  # never through a link that lies there
                out.write(_FACTS.dump_json(facts).ljust(LINE))
                out.write(_little(places))
            part.replace(file)
            return file
        except OSError as error:
            _say_unkept(file.parent, error.strerror or str(error))
            if not isinstance(error, FileExistsError):
                part.unlink(missing_ok=True)
    return None


@functools.lru_cache(maxsize=1 << 10)
def _say_unkept(folder: Path, why: str) -> None:
    """Once a folder."""
    log.warning("indices of shards cannot be kept in %s: %s", folder, why)


def _little(places: array.array[int]) -> bytes | memoryview:
    if sys.byteorder == "little":
        return memoryview(places)
    swapped = places[:]
    swapped.byteswap()
    return memoryview(swapped)


def _numbers(pair: bytes) -> tuple[int, int]:
    return int.from_bytes(pair[:8], "little", signed=True), int.from_bytes(pair[8:], "little", signed=True)
