"""Which shards a `path` means: a file, a folder, a pattern, an address, or a list of these, always in the same order.

Patterns are those of both worlds: `*`, `?` and `[…]`, and braces as webdataset has them (`{000..012}`). A folder gives the
shards in it that are not hidden. What a pattern stands for is written out first, and each result is judged by itself: so no
pattern hides a command. One shard that is named twice is one shard.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import braceexpand

from datasets.remote import fetch_all, is_remote, listed


def find_shards(
    path: str | Path | Sequence[str | Path], *, cache: str | Path | None = None, allow_pipe: bool = False
) -> list[Path]:
    """Shards in a fixed order, fetched where they are not here. Raises `ValueError` where there are none."""
    asked = [path] if isinstance(path, str | Path) else list(path)
    if not asked:
        raise ValueError("no shards: `path` is an empty list")
    found = [shard for one in asked for shard in _meant(one)]
    urls = list(dict.fromkeys(str(one) for one in found if is_remote(one)))
    copies = dict(zip(urls, fetch_all(urls, None if cache is None else Path(cache), allow_pipe=allow_pipe), strict=True))
    shards: dict[tuple[int, int], Path] = {}
    for one in found:
        shard = copies.get(str(one)) or Path(one)
        shards.setdefault(_identity(shard), shard)
    return list(shards.values())


def _identity(shard: Path) -> tuple[int, int]:
    """The same for all names and links of one file. Raises `ValueError` for what is no file."""
    try:
        status = shard.stat()
    except OSError as error:
        raise ValueError(f"shard {shard} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"shard {shard} is no file")
    return status.st_dev, status.st_ino


def _meant(path: str | Path) -> list[str | Path]:
    """Files and addresses that one entry stands for. Raises `ValueError` where there are none."""
    if str(path).startswith("pipe:"):
        return [path]  # a shell has braces of its own
    expanded = [str(path)] if os.path.exists(path) else list(braceexpand.braceexpand(str(path)))
    found = [shard for one in expanded for shard in (listed(one) if is_remote(one) else _local(one))]
    if not found:
        raise ValueError(f"no shards at {path}: the pattern matches none")
    return found


def _local(name: str) -> list[Path]:
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        found = sorted(shard for shard in path.glob("*.tar") if not shard.name.startswith("."))
    else:
        found = [path] if os.path.lexists(path) else sorted(map(Path, glob.glob(str(path))))
    if not found:
        raise ValueError(f"no shards at {path}: it must be a .tar file, a folder of them or a pattern that matches some")
    return found


def common_name(paths: Sequence[Path]) -> str:
    """`train` for train-000000.tar, train-000001.tar, …; several names are joined."""
    return "+".join(dict.fromkeys(re.sub(r"(-\d+)?(-[0-9a-f]{16})?$", "", path.stem) for path in paths))
