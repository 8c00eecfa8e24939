"""Tar shards in the webdataset layout: written deterministically, read at random, nothing trusted.

A sample is a stretch of neighbouring members with one key (datasets/shard_index.py finds them); a read fetches the stretch and
parses the few members in it. Shards stay uncompressed: pictures are compressed already, and a compressed stream has no random
access. Nothing is ever unpacked to disk, and a sample over `MAX_SAMPLE` bytes is refused. A shard that goes or changes while it
is in use ends the run: its samples would be lost, or others.
"""

from __future__ import annotations

import bisect
import contextlib
import glob
import hashlib
import itertools
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from webdataset.writer import TarWriter

from datasets.cache import alone, take
from datasets.counts import Skip
from datasets.members import from_members, to_members
from datasets.shard_index import ShardIndex, index_beside, index_shard
from datasets.shard_paths import common_name, find_shards
from datasets.shard_scan import BROKEN, EXAMPLES, MAX_SAMPLE, stamp_of
from datasets.source import BadSample, permuted, permuted_blocks
from datasets.tar_members import keyed_members
from vlm.sample import Sample

CUT = "shard cut off"
MARK = 8  # hexadecimal digits of a shard's digest in a source's `marks`
_WORK = ".part"  # ends the name of a folder in which a writer works
_AROUND = 2048  # bytes around a member at most: headers and padding

log = logging.getLogger(__name__)


class ShardWriter:
    """`folder/NAME-000000.tar`, …: the same samples give the same bytes.

    They are written in a hidden folder of this writer's own, and all appear at a clean `close`: an earlier run's shards of the
    name go, the last first, then the new ones come, the first first. So the folder never holds a mixture of two runs, but at
    every moment the beginning of one of them, however the process ends. After an exception, or `discard`, all is as it was.
    """

    def __init__(self, folder: str | Path, name: str, *, max_samples: int = 10_000, max_bytes: int = 256 << 20) -> None:
        self.folder, self.name, self.max_samples, self.max_bytes = Path(folder), name, max_samples, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards: list[str] = []
        self.samples = self._in_shard = self._bytes = 0
        self._open: tuple[TarWriter, BinaryIO] | None = None
        with _opened(self.folder) as folder_file, alone(folder_file):
            _sweep(self.folder, name)
            self._work = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=_WORK, dir=self.folder))
            self._lock = os.open(self._work, os.O_RDONLY)
            take(self._lock)

    def write(self, sample: Sample) -> None:
        """Raises `BadSample` for one that no reader of shards would take."""
        members = to_members(sample)
        size = sum(map(len, members.values()))
        if size + _AROUND * len(members) > MAX_SAMPLE:
            raise BadSample("sample too large", sample.key)
        if self._in_shard and (self._in_shard == self.max_samples or self._bytes + size > self.max_bytes):
            self.finish()
        slug = re.sub(r"[^A-Za-z0-9_-]+", "_", sample.key)[:60]  # a dot would end the key, a slash would make a folder
        with self._told():
            self._writer().write({"__key__": f"{self.samples:08d}_{slug}", **members})
        self.samples, self._in_shard, self._bytes = self.samples + 1, self._in_shard + 1, self._bytes + size

    def finish(self) -> None:
        """Bring all that was written to the disk, before any of it is published: another set may still fail."""
        opened, self._open = self._open, None
        self._in_shard = self._bytes = 0
        if opened:
            with self._told(), opened[1]:
                opened[0].close()

    def close(self) -> None:
        """Publish the shards in the place of an earlier run's."""
        self.finish()
        with _opened(self.folder) as folder, alone(folder):  # of two writers of one name the later one stays
            earlier = list(itertools.takewhile(Path.exists, map(self._path, itertools.count())))
            for shard in reversed(earlier):
                shard.unlink()
                index_beside(shard).unlink(missing_ok=True)
            for name in self.shards:
                (self._work / name).replace(self.folder / name)
        self._leave()

    def discard(self) -> None:
        """Remove what was written; the shards of an earlier run stay as they are."""
        with contextlib.suppress(OSError):  # a full disk
            self.finish()
        self._leave()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close() if kind is None else self.discard()

    def _leave(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06d}.tar"

    def _writer(self) -> TarWriter:
        if self._open is None:
            self.shards.append(self._path(len(self.shards)).name)
            file = (self._work / self.shards[-1]).open("wb")
            self._open = TarWriter(file, user="root", group="root", mtime=0, encoder=False), file
        return self._open[0]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A write's error does not say which file it was."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder / self.shards[-1])) from None


def _sweep(folder: Path, name: str) -> None:
    """Remove what writers of this name have left that were killed: a living one holds its lock."""
    for work in folder.glob(f".{glob.escape(name)}.*{_WORK}"):
        if work.is_dir() and not work.is_symlink():
            with _opened(work) as file:
                if take(file):
                    shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    file = os.open(folder, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


class ShardSource:
    """All samples of some shards, in a new order each epoch (`shuffle=False`: as they are written).

    `path`: a shard, a folder of them, a pattern, an address (datasets/remote.py), or a list of these. Shards from afar are kept
    in `cache`; a `pipe:` runs a command, and only with `allow_pipe`. `shuffle: {block: n}` reads n neighbouring samples, in an
    order of their own, before the next n, so that disks and page caches are of use. A template's own tokens (`"special": true`)
    are control, so samples that hold them are bad ones unless `allow_special`. Raises `ValueError` where there is no sample.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        seed: int = 0,
        name: str | None = None,
        shuffle: bool | Mapping[str, int] = True,
        cache: str | Path | None = None,
        allow_pipe: bool = False,
        allow_special: bool = False,
    ) -> None:
        self.paths = find_shards(path, cache=cache, allow_pipe=allow_pipe)
        self.name, self.seed, self.allow_special = name or common_name(self.paths), seed, allow_special
        self.shuffle, self._block = bool(shuffle), _block(shuffle)
        self._indices = [self._index(path) for path in self.paths]
        self._ends = list(itertools.accumulate(map(len, self._indices)))
        facts = [index.facts for index in self._indices]
        self.cut = [path for path, one in zip(self.paths, facts, strict=True) if one.cut]
        self.skipped = sum((Counter[str](one.skipped) for one in facts if one.skipped), Counter[str]())
        self.examples = list(self._examples())
        digests = [one.digest for one in facts]
        self.fingerprint = hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
        self.marks = "".join(digest[:MARK] for digest in digests)
        if not len(self):
            raise ValueError(f"no samples in {', '.join(map(str, self.paths[:3]))}")

    def __len__(self) -> int:
        return self._ends[-1]

    def get(self, epoch: int, index: int) -> Sample:
        place = self._place(epoch, index)
        shard = bisect.bisect_right(self._ends, place)
        data, start = self._read(shard, place - self._ends[shard] + len(self._indices[shard]))
        return self._parse(data, self.paths[shard], start)

    @property
    def passed_over(self) -> Counter[str]:
        """What its shards hold and no sample has, by reason: members, and the shards that are cut off."""
        return self.skipped + Counter({CUT: len(self.cut)})

    def _place(self, epoch: int, index: int) -> int:
        if self._block:
            return permuted_blocks(index, len(self), self._block, self.seed, epoch)
        return permuted(index, len(self), self.seed, epoch) if self.shuffle else index

    def _read(self, shard: int, number: int) -> tuple[bytes, int]:
        """A sample's bytes, and where they begin.

        A shard that is gone or changed is no bad sample: going on would lose its others, or take others for them.
        """
        path, index = self.paths[shard], self._indices[shard]
        try:
            with path.open("rb", buffering=0) as file:
                if stamp_of(os.fstat(file.fileno())) != index.stamp:
                    raise ValueError(f"source {self.name!r}: shard {path} has changed since it was opened")
                start, stop = index.place(number)
                if stop - start > MAX_SAMPLE:
                    raise BadSample("too large", f"{path}: a sample of {stop - start:,} bytes at byte {start:,}")
                file.seek(start)
                return file.read(stop - start), start
        except OSError as error:
            raise ValueError(f"source {self.name!r}: shard {path} can no longer be read: {error.strerror or error}") from None

    def _parse(self, data: bytes, path: Path, start: int) -> Sample:
        try:
            key, members = keyed_members(data)
        except BROKEN as error:
            raise BadSample("broken shard", f"{path}: {error} at byte {start:,}") from None
        return from_members(key, members, self.name, allow_special=self.allow_special)

    def _index(self, path: Path) -> ShardIndex:
        index = index_shard(path)
        if index.facts.cut:
            log.warning("source %s: shard %s is cut off: the %d samples before the cut are used", self.name, path, len(index))
        for reason, count in index.facts.skipped.items():
            log.warning("source %s: %d members of shard %s are passed over: %s", self.name, count, path, reason)
        return index

    def _examples(self) -> Iterator[Skip]:
        """The first of each reason."""
        told: Counter[str] = Counter()
        for path, index in zip(self.paths, self._indices, strict=True):
            found = [(reason, name) for reason, names in index.facts.examples.items() for name in names]
            for reason, detail in [*found, *[(CUT, f"after {len(index):,} samples")] * index.facts.cut]:
                told[reason] += 1
                if told[reason] <= EXAMPLES:
                    yield Skip(self.name, reason, f"{path}: {detail}")


def _block(shuffle: bool | Mapping[str, int]) -> int:
    """Samples of a block; 0 for an order that has none."""
    if isinstance(shuffle, bool):
        return 0
    block = shuffle.get("block")
    if set(shuffle) != {"block"} or not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise ValueError(f"shuffle is {dict(shuffle)}: want true, false or {{block: n}}, a number of samples")
    return block
