"""What an earlier conversion left in DST: its shards that a new one does not write would be read with the new ones.

`summary.json` lists them. The same conversion of a SRC that has changed takes their place, sets that are gone included; with
other options or by another converter they would be somebody's data still, so that is refused and DST stays as it was.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.shard_index import index_beside
from vlm.files import read_json
from vlm.sample import Sample

LOCK = ".converting"
MAX_SUMMARY = 64 << 20  # bytes
SHARD = re.compile(r"[^/\\\0]+-\d{6}\.tar")


@dataclass(frozen=True)
class Earlier:
    """`sets`: name of a set → its shards; `same`: by the same converter with the same options."""

    dst: Path
    same: bool = True
    sets: dict[str, list[str]] = field(default_factory=dict)

    def stale(self, sets: Container[str]) -> list[str]:
        """Shards that conversion to `sets` would leave lying there."""
        shards = (shard for name, shards in self.sets.items() if name not in sets for shard in shards)
        return [shard for shard in shards if (self.dst / shard).is_file()]

    def checked(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """`samples`; raises `ValueError` at their end where stale shards are another conversion's."""
        sets = set()
        for sample in samples:
            sets.add(sample.source)
            yield sample
        stale = self.stale(sets)
        if stale and not self.same:
            raise ValueError(
                f"DST {self.dst} holds {stale[0]} of a conversion with other options, which would stay: remove it, or choose "
                "another folder"
            )

    def remove_stale(self, sets: Container[str]) -> None:
        for shard in self.stale(sets):
            (self.dst / shard).unlink()
            index_beside(self.dst / shard).unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(dst: Path) -> Iterator[None]:
    """One conversion at a time writes to DST, made where it is not there. Raises `ValueError` while another process does."""
    import fcntl  # of Unix alone

    dst.mkdir(parents=True, exist_ok=True)
    lock = dst / LOCK
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"DST {dst} is being written by another process") from None
        except OSError:
            pass  # the file system has no locks
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def earlier(dst: Path, converter: str, options: dict) -> Earlier:
    """Raises `ValueError` where DST holds another converter's shards."""
    try:
        summary = read_json(dst / "summary.json", MAX_SUMMARY)
        sets = {name: [s for s in kept["shards"] if SHARD.fullmatch(s)] for name, kept in summary["kept"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):  # none there, or not one of ours
        return Earlier(dst)
    found = Earlier(dst, (summary.get("converter"), summary.get("options")) == (converter, options), sets)
    if summary.get("converter") != converter and found.stale(()):
        raise ValueError(f"DST {dst} holds a conversion by {summary.get('converter')!a}: choose another folder")
    return found
