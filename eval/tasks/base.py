"""What a question is, and what a task is: a small declaration of what is asked, of whom the data is, and how it is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from eval.cli import nearest

# Instructions that several tasks share
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the letter of the right choice."
YES_NO = "Answer yes or no."


@runtime_checkable
class Picture(Protocol):
    """A picture that is read when it is needed; a `Path` is one."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes:
        """Encoded. Raises `OSError` where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `images` are encoded bytes, or read when asked for; a question may say where they stand (`<image 2>`).
    `tags` are what figures are broken down by, several values of one allowed; `group` is what makes items dependent (the
    picture); `table` the exact data behind a generated chart."""

    id: str
    question: str
    references: tuple[str, ...]  # () where the answer is not public
    images: tuple[bytes | Picture, ...] = ()
    context: str = ""
    group: str = ""
    tags: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    table: Any = None
    choices: Mapping[str, str] | None = None  # letter → text
    hint: str = ""  # given with the question: ScienceQA's hint
    rationale: str = ""  # the gold one, for examples that reason
    options: Mapping[str, Any] = field(default_factory=dict)  # of the metric
    instruction: str = ""  # in place of the task's

    def pictures(self) -> tuple[bytes, ...]:
        """Encoded bytes of each image, read now."""
        return tuple(image if isinstance(image, bytes) else image.read_bytes() for image in self.images)


class MissingError(ValueError):
    """A file or folder that a task reads is not there; `Task.items` adds what to download."""


@dataclass(frozen=True, slots=True)
class Task:
    """`load(data, split)` → items, one by one (`data`: a folder, or `None`); `splits` are the valid names, the first the
    default; `by` the tags of the breakdown. What is published about the set: `layout` of the download, where it is
    (`download`), and `sizes` of its splits.
    """

    name: str
    load: Callable[[Any, str], Iterable[Item]]
    metric: str
    splits: tuple[str, ...] = ("test",)
    by: tuple[str, ...] = ()
    mean_of: str = ""  # the tag whose values' figures are also averaged (ChartQA: the mean of its splits)
    max_new_tokens: int = 16
    instruction: str = ""  # what kind of answer is wanted, for conventions that say so
    parser: str = "line"  # of eval.parsing
    also: tuple[str, ...] = ()  # further metrics of the same predictions, reported beside
    about: str = ""  # in a line
    layout: str = ""  # what --data holds; "": the task needs none
    download: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)  # questions of a split as published

    @property
    def metrics(self) -> tuple[str, ...]:
        """Labels, the main one first."""
        return (self.metric, *self.also)

    def items(self, data: Path | None, split: str | None, limit: int | None = None) -> list[Item]:
        """The items of a split. Raises `ValueError` for an unknown split and for missing data (what to download where), and
        naming file and row for a row that does not fit."""
        split = split or self.splits[0]
        if split not in self.splits:
            raise nearest(f"split of {self.name}", split, self.splits)
        if data is None and self.layout:
            raise ValueError(f"task {self.name} needs --data: {self.wanted}")
        try:
            found = list(islice(self.load(None if data is None else Path(data), split), limit))
        except MissingError as error:
            raise ValueError(f"{error}: {self.wanted}") from None
        if not found:
            raise ValueError(f"task {self.name}: no questions of split {split} in {data}")
        return found

    @property
    def wanted(self) -> str:
        """What to download where."""
        where = f"download {self.download} and give its folder by --data" if self.download else "give its folder by --data"
        return f"{where} ({self.layout})"


def digest(*parts: str | bytes) -> str:
    """Short content hash; parts are kept apart."""
    blake = hashlib.blake2b(digest_size=12)
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        blake.update(len(data).to_bytes(8, "little") + data)
    return blake.hexdigest()
