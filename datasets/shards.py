"""Tar shards in the webdataset layout: written deterministically, read at random, nothing trusted.

A sample is a stretch of neighbouring members with one key (datasets/shard_index.py finds them); a read fetches the stretch and
parses the few members in it. Shards stay uncompressed: pictures are compressed already, and a compressed stream has no random
access. Nothing is ever unpacked to disk, and a sample over `MAX_SAMPLE` bytes is refused.
"""

from __future__ import annotations

import bisect
import glob
import io
import itertools
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from datasets.members import from_members, to_members
from datasets.remote import expand, fetch, is_remote
from datasets.shard_index import BLOCK, BROKEN, ShardIndex, index_shard, refused
from datasets.source import BadSample, permuted
from vlm.sample import Sample

MAX_SAMPLE = 256 << 20  # bytes of one sample, all its frames together

log = logging.getLogger(__name__)


class ShardWriter:
    """`folder/NAME-000000.tar`, …: the same samples give the same bytes.

    All shards appear at a clean `close`, in the place of an earlier run's; after an exception, or `discard`, none does.
    """

    def __init__(self, folder: str | Path, name: str, *, max_samples: int = 10_000, max_bytes: int = 256 << 20) -> None:
        self.folder, self.name, self.max_samples, self.max_bytes = Path(folder), name, max_samples, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards: list[str] = []
        self.samples = self._in_shard = self._bytes = 0
        self._tar: TarWriter | None = None

    def write(self, sample: Sample) -> None:
        members = to_members(sample)
        size = sum(map(len, members.values()))
        if self._in_shard and (self._in_shard == self.max_samples or self._bytes + size > self.max_bytes):
            self._finish()
        if not self._tar:
            self.shards.append(self._path(len(self.shards)).name)
            self._tar = TarWriter(str(self._part(self.shards[-1])), user="root", group="root", mtime=0, encoder=False)
        slug = re.sub(r"[^A-Za-z0-9_-]+", "_", sample.key)[:60]  # a dot would end the key, a slash would make a folder
        self._tar.write({"__key__": f"{self.samples:08d}_{slug}", **members})
        self.samples, self._in_shard, self._bytes = self.samples + 1, self._in_shard + 1, self._bytes + size

    def close(self) -> None:
        """Publish the shards, and remove those that a longer earlier run left behind them."""
        self._finish()
        for shard in self.shards:
            self._part(shard).replace(self.folder / shard)
        for number in itertools.count(len(self.shards)):
            stale = self._path(number)
            if not stale.exists():
                break
            stale.unlink()

    def discard(self) -> None:
        """Remove what was written; the shards of an earlier run stay as they are."""
        self._finish()
        for shard in self.shards:
            self._part(shard).unlink()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close() if kind is None else self.discard()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06d}.tar"

    def _part(self, shard: str) -> Path:
        return (self.folder / shard).with_suffix(".part")

    def _finish(self) -> None:
        if self._tar:
            self._tar.close()
        self._tar, self._in_shard, self._bytes = None, 0, 0


class ShardSource:
    """All samples of some shards, in a new order each epoch (`shuffle=False`: as they are written).

    `path`: a shard, a folder of them, a glob pattern, an address (datasets/remote.py), or a list of these. Shards from afar are
    kept in `cache`; a `pipe:` runs a command, and only with `allow_pipe`. Raises `ValueError` where there is no sample.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        seed: int = 0,
        name: str | None = None,
        shuffle: bool = True,
        cache: str | Path | None = None,
        allow_pipe: bool = False,
    ) -> None:
        self.paths = find_shards(path, cache=cache, allow_pipe=allow_pipe)
        self.name, self.seed, self.shuffle = name or common_name(self.paths), seed, shuffle
        indices = [self._index(path) for path in self.paths]
        self._ranges = [np.array(index.samples, np.int64).reshape(-1, 2) for index in indices]
        self._ends = list(itertools.accumulate(map(len, self._ranges)))
        self.cut = [path for path, index in zip(self.paths, indices, strict=True) if index.cut]
        self.skipped = sum((Counter(index.skipped) for index in indices), Counter())
        if not len(self):
            raise ValueError(f"no samples in {', '.join(map(str, self.paths[:3]))}")

    def __len__(self) -> int:
        return self._ends[-1]

    def get(self, epoch: int, index: int) -> Sample:
        place = permuted(index, len(self), self.seed, epoch) if self.shuffle else index
        shard = bisect.bisect_right(self._ends, place)
        start, stop = self._ranges[shard][place - self._ends[shard]].tolist()
        return self._read(self.paths[shard], start, stop)

    def _read(self, path: Path, start: int, stop: int) -> Sample:
        if stop - start > MAX_SAMPLE:
            raise BadSample("too large", f"{path}: a sample of {stop - start:,} bytes at byte {start:,}")
        try:
            with path.open("rb") as shard:
                shard.seek(start)
                data = shard.read(stop - start)
        except OSError as error:  # no bad sample: going on would lose all others of the shard without a word
            raise ValueError(f"source {self.name!r}: shard {path} can no longer be read: {error.strerror or error}") from None
        try:
            found = _plain_members(data) or list(_members(data))
        except BROKEN as error:
            raise BadSample("broken shard", f"{path}: {error} at byte {start:,}") from None
        key, members = "", {}
        for name, content in found:
            key, extension = base_plus_ext(name)
            members[extension] = content
        return from_members(key, members, self.name)

    def _index(self, path: Path) -> ShardIndex:
        index = index_shard(path)
        if index.cut:
            whole = len(index.samples) // 2
            log.warning("source %s: shard %s is cut off: the %d samples before the cut are used", self.name, path, whole)
        for reason, count in index.skipped.items():
            log.warning("source %s: %d members of shard %s are passed over: %s", self.name, count, path, reason)
        return index


def _plain_members(data: bytes) -> list[tuple[str, bytes]] | None:
    """(name, content) of members that are all plain files with plain headers, as most are; `None` otherwise: half the time."""
    found, start = [], 0
    while start < len(data):
        member = tarfile.TarInfo.frombuf(data[start : start + BLOCK], "utf-8", "surrogateescape")
        content = data[start + BLOCK : start + BLOCK + member.size]
        if member.type != tarfile.REGTYPE or len(content) < member.size or refused(member):
            return None
        found.append((member.name, content))
        start += BLOCK + -(-member.size // BLOCK) * BLOCK
    return found


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            if not refused(member) and (file := tar.extractfile(member)):
                yield member.name, file.read()


def find_shards(
    path: str | Path | Sequence[str | Path], *, cache: str | Path | None = None, allow_pipe: bool = False
) -> list[Path]:
    """Shards in a fixed order, fetched where they are not here. Raises `ValueError` where there are none."""
    if not isinstance(path, str | Path):
        return [shard for one in path for shard in find_shards(one, cache=cache, allow_pipe=allow_pipe)]
    if is_remote(path):
        return _fetched(str(path), None if cache is None else Path(cache), allow_pipe)
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    else:
        found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
    if not found:
        raise ValueError(f"no shards at {path}: it must be a .tar file, a folder of them or a pattern that matches some")
    return found


def _fetched(url: str, cache: Path | None, allow_pipe: bool) -> list[Path]:
    if url.startswith("pipe:") and not allow_pipe:
        raise ValueError(f"{url} would run a command: set `allow_pipe: true` on the source if that is meant")
    urls = expand(url)
    if not urls:
        raise ValueError(f"no shards at {url}: the pattern matches none")
    return [fetch(one, cache) for one in urls]


def common_name(paths: Sequence[Path]) -> str:
    """`train` for train-000000.tar, train-000001.tar, …; several names are joined."""
    return "+".join(dict.fromkeys(re.sub(r"(-\d+)?(-[0-9a-f]{16})?$", "", path.stem) for path in paths))
