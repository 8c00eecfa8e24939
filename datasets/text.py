"""Text that every machine has: the source of Python's standard library, real code with prose in its docstrings.

A fixed slice of it: files in the order of a hash of their path, so that it is spread over all modules and is the same for
every seed; 5 % of the files, chosen by the same hash, are held out. Documents are chunks of a few thousand characters that
end with a line.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datasets.source import permuted
from vlm.sample import Sample, Text

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "ensurepip", "turtledemo"}
FILE_LIMIT = 65_536  # characters of one file: some are tables of a megabyte
CHUNK = 4_000  # characters of one document


class StdlibSource:
    """About `bytes` of the standard library (`None`: all of it), in a new order each epoch.

    `split`: 95 % of the files are `train`, 5 % `val`; the two share no file.
    """

    def __init__(
        self, bytes: int | None = 1_000_000, *, split: Literal["train", "val"] = "train", seed: int = 0, name: str = "stdlib"
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split of the standard library is {split!r}: it must be 'train' or 'val'")
        if bytes is not None and bytes < 1:
            raise ValueError(f"bytes of the standard library is {bytes}: it must be above 0, or null for all")
        self.name, self.seed = name, seed
        self.documents = list(_slice(Path(sysconfig.get_path("stdlib")), bytes, held_out=split == "val"))
        self.fingerprint = hashlib.sha256(repr(self.documents).encode()).hexdigest()  # another Python has another library

    def __len__(self) -> int:
        return len(self.documents)

    def get(self, epoch: int, index: int) -> Sample:
        key, text = self.documents[permuted(index, len(self), self.seed, epoch)]
        return Sample((Text(text),), key=key, source=self.name)


def chunks(text: str, size: int = CHUNK) -> Iterator[str]:
    """Stretches of at most `size` characters that end with a line where one ends in their later half."""
    start = 0
    while len(text) - start > size:
        line_end = text.rfind("\n", start + size // 2, start + size) + 1
        stop = line_end or start + size
        yield text[start:stop]
        start = stop
    if text[start:].strip():
        yield text[start:]


def _slice(root: Path, budget: int | None, held_out: bool) -> Iterator[tuple[str, str]]:
    """(key, text) of each chunk."""
    for path, digest in sorted(_files(root), key=lambda file: file[1]):
        if (digest[0] % 20 == 0) != held_out:
            continue
        try:
            text = (root / path).read_text(encoding="utf-8")[:FILE_LIMIT]
        except (UnicodeDecodeError, OSError):
            continue
        for number, chunk in enumerate(chunks(text)):
            yield f"{path}#{number}", chunk
            if budget is not None:
                budget -= len(chunk.encode())
                if budget <= 0:
                    return


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    """(path within the library, its hash) of every source file."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders if s not in LEFT_OUT]
        for name in names:
            if name.endswith(".py"):
                path = (Path(folder) / name).relative_to(root).as_posix()
                yield path, hashlib.sha256(path.encode()).digest()
