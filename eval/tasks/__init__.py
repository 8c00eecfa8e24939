"""What is asked: a task is a small declaration, its items come from an official download (or a generator).

To make a new task, copy `chartqa.py`: a function (data directory, split) → items, and a `Task` naming the metric and the
tags by which figures are broken down; then name it in `_all`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.cli import nearest


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `images` are encoded bytes or paths; `tags` are what figures are broken down by; `group` is what
    makes items dependent (the picture); `table` the exact data behind a generated chart."""

    id: str
    question: str
    references: tuple[str, ...]
    images: tuple[bytes | Path, ...] = ()
    context: str = ""
    group: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    table: Any = None

    def pictures(self) -> tuple[bytes, ...]:
        """Encoded bytes of each image, read now."""
        return tuple(image if isinstance(image, bytes) else image.read_bytes() for image in self.images)


@dataclass(frozen=True, slots=True)
class Task:
    """`load(data, split)` → items; `splits` are the valid names, the first the default; `by` the tags of the breakdown."""

    name: str
    load: Callable[[Path | None, str], Sequence[Item]]
    metric: str
    splits: tuple[str, ...] = ("test",)
    by: tuple[str, ...] = ()
    mean_of: str = ""  # the tag whose values' figures are also averaged (ChartQA: the mean of its splits)
    max_new_tokens: int = 16

    def items(self, data: Path | None, split: str | None, limit: int | None = None) -> list[Item]:
        """The items of a split. Raises `ValueError` for an unknown split and for missing data (what to download where)."""
        split = split or self.splits[0]
        if split not in self.splits:
            raise nearest(f"split of {self.name}", split, self.splits)
        return list(self.load(data, split)[:limit])


def digest(*parts: str | bytes) -> str:
    """Short content hash; parts are kept apart."""
    blake = hashlib.blake2b(digest_size=12)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        blake.update(len(data).to_bytes(8, "little") + data)
    return blake.hexdigest()


def names() -> tuple[str, ...]:
    return tuple(_all())


def get(name: str) -> Task:
    """Task by name. Raises `ValueError` naming the nearest valid one."""
    tasks = _all()
    if name not in tasks:
        raise nearest("task", name, tasks)
    return tasks[name]


def _all() -> dict[str, Task]:
    from eval.tasks import chartqa, charts, custom  # they import this module

    return {task.name: task for task in (charts.TASK, chartqa.TASK, custom.TASK)}
