"""What converters share: the count of what was skipped, and careful reading of files from elsewhere."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image

from vlm.image import MAX_PIXELS

MAX_IMAGE = 64 << 20  # bytes of one picture's file
MAX_LINE = 64 << 20  # characters of one line of JSON
EXAMPLES = 3  # named for each reason


@dataclass
class Skips:
    """How often something was left out, by reason, with the first cases by name."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        self.counts[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(example)

    def summary(self) -> dict[str, dict]:
        return {reason: {"count": n, "examples": self.examples[reason]} for reason, n in sorted(self.counts.items())}


def inside(root: Path, name: str) -> Path | None:
    """The file `name` below `root`; `None` when there is none, or it leads elsewhere (absolute, `..`, a link)."""
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root.resolve()) and path.is_file() else None
    except (ValueError, OSError, RuntimeError):  # a null byte, a name too long, a loop of links
        return None


def read_image(root: Path, name: object, skips: Skips) -> bytes | None:
    """A picture's bytes; `None`, counted, when it is missing, too large, or its file is damaged."""
    path = inside(root, name) if isinstance(name, str) else None
    if path is None:
        skips.add("image missing", str(name)[:200])
        return None
    if path.stat().st_size > MAX_IMAGE:
        skips.add("image too large", str(name))
        return None
    data = path.read_bytes()
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                skips.add("image too large", str(name))
                return None
            image.verify()
    except Exception:  # Pillow's parsers raise almost anything on a broken file
        skips.add("image broken", str(name))
        return None
    return data


def read_rows(path: Path, skips: Skips) -> Iterator[tuple[str, dict]]:
    """(`file:number`, row) of a .json list, .jsonl or .jsonl.gz; rows that are no objects are counted."""
    rows = _lines(path, skips) if ".jsonl" in path.name else _list(path)
    for number, row in enumerate(rows):
        where = f"{path.name}:{number}"
        if isinstance(row, dict):
            yield where, row
        elif row is not None:
            skips.add("row is no object", where)


def _list(path: Path) -> list[Any]:
    """Raises `ValueError` when the file is no JSON list."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of rows, not {type(rows).__name__}")
    return rows


def _lines(path: Path, skips: Skips) -> Iterator[Any]:
    """One value a line, `None` for a line that was counted as unreadable. A line is never held beyond `MAX_LINE`."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    skips.add("line too long", f"{path.name}:{number}")
                    while line and not line.endswith("\n"):
                        line = file.readline(MAX_LINE)
                    yield None
                elif line.strip():
                    yield _value(line, f"{path.name}:{number}", skips)
                number += 1
    except (OSError, EOFError) as error:  # a compressed file that was cut off
        skips.add("file cut off", f"{path.name}:{number}: {error}")


def _value(line: str, where: str, skips: Skips) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        skips.add("line is no JSON", where)
        return None
