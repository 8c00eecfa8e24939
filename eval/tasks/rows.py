"""Rows of annotation files, read one at a time, whose fields are taken with their types: whatever does not fit is one line
that names file and row.

    for row in rows.json_list(path, pictures=folder):     # also json_lines, json_items, json_under, tab_lines; parquet.rows
        Item(row.word("question_id"), row.text("question"), row.texts("answers"), (row.picture("image"),))

Rows are counted from 1. Files are of others: nothing is read beside the folder of pictures, and no value is larger than the
readers allow.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.convert.common import inside
from datasets.convert.json_stream import list_values, object_items, values_under
from datasets.convert.pictures import MAX_IMAGE
from eval.cases import lines
from eval.metrics.base import LETTERS, brief
from eval.tasks.base import Item, Picture


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file below `folder`, which nothing may lead out of; `place` is the row that names it."""

    folder: Path
    name: str
    place: str

    def read_bytes(self) -> bytes:
        """Raises `OSError` naming row and file where there is none, or one too large for a picture."""
        path = inside(self.folder, self.name)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, f"{self.place}: no such picture", str(self.folder / self.name))
        if path.stat().st_size > MAX_IMAGE:
            raise OSError(errno.EFBIG, f"{self.place}: picture of over {MAX_IMAGE:,} bytes", str(path))
        return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Row:
    """A row, the `place` it stands at (`file:number`) and the folder of its `pictures`, where these are files.

    Every way to take a field raises `ValueError` with the place when it is missing or of another type.
    """

    place: str
    data: Mapping[str, Any]
    pictures: Path | None = None

    def error(self, reason: str) -> ValueError:
        return ValueError(f"{self.place}: {reason}")

    @property
    def number(self) -> str:
        """Of the row in its file, from 1; of a JSON object's, the key."""
        return self.place.rpartition(":")[2]

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def first(self, *keys: str) -> str:
        """The first of these fields that is there: releases of one set differ in names."""
        return next((key for key in keys if self.has(key)), keys[0])

    def text(self, key: str) -> str:
        return self._of_type(key, str, "text")

    def optional(self, key: str) -> str:
        """A text, "" where there is none."""
        return self.text(key).strip() if self.has(key) else ""

    def word(self, key: str) -> str:
        """A text, or a number as text."""
        return _word(self._of_type(key, (str, int, float), "a text or a number"))

    def words(self, key: str) -> tuple[str, ...]:
        """A list of texts or numbers, or one alone."""
        value = self._of_type(key, (list, str, int, float), "texts")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
            raise self.error(f"`{key}` is a list of texts, not {brief(value)}")
        return tuple(map(_word, values))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or one alone."""
        value = self._of_type(key, (list, str), "texts")
        values = [value] if isinstance(value, str) else value
        if not all(isinstance(one, str) for one in values):
            raise self.error(f"`{key}` is a list of texts, not {brief(value)}")
        return tuple(values)

    def integer(self, key: str) -> int:
        """A whole number of up to 18 digits, also written as a text or as 3.0."""
        value = self.data.get(key)
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if isinstance(value, bool) or len(text) > 18 or not text.isascii() or not text.removeprefix("-").isdecimal():
            raise self.error(f"`{key}` is a whole number, not {brief(value)}")
        return int(text)

    def row(self, key: str) -> Row:
        """An object inside."""
        return replace(self, data=self._of_type(key, dict, "an object"))

    def rows(self, key: str) -> list[Row]:
        """A list of objects."""
        values = self._of_type(key, list, "a list of objects")
        if not all(isinstance(value, dict) for value in values):
            raise self.error(f"`{key}` is a list of objects, not {brief(values)}")
        return [replace(self, data=value) for value in values]

    def choices(self, key: str) -> dict[str, str]:
        """Choices by letter. Also raises for none at all and more than 26."""
        texts = self.words(key)
        if not 0 < len(texts) <= len(LETTERS):
            raise self.error(f"`{key}` has 1 to {len(LETTERS)} choices, not {len(texts)}")
        return dict(zip(LETTERS, texts, strict=False))

    def letter(self, key: str, choices: Mapping[str, str]) -> str:
        """The letter of a right answer that is given as its number, from 0."""
        number = self.integer(key)
        if not 0 <= number < len(choices):
            raise self.error(f"`{key}` is the number of one of {len(choices)} choices, from 0, not {number}")
        return LETTERS[number]

    def file(self, name: str) -> PictureFile:
        """A picture in the folder of pictures. Also raises for a name that leads out of it."""
        parts = PurePosixPath(name.replace("\\", "/"))
        if self.pictures is None or not name or "\0" in name or parts.is_absolute() or ".." in parts.parts:
            raise self.error(f"{brief(name)} names no picture in {self.pictures}")
        return PictureFile(self.pictures, str(parts), self.place)

    def picture(self, key: str) -> Picture:
        """The picture that a field holds (parquet) or names."""
        value = self.data.get(key)
        return value if isinstance(value, Picture) else self.file(self.text(key))

    def answers(self, key: str = "answers") -> tuple[str, ...]:
        """What several people answered: texts, or objects with an `answer`, as a list or (parquet) as columns."""
        value = self.data.get(key)
        if isinstance(value, dict):
            return self.row(key).words("answer")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return tuple(row.word("answer") for row in self.rows(key))
        return self.words(key)

    def _of_type(self, key: str, kind: Any, what: str) -> Any:
        value = self.data.get(key)
        if value is None:
            raise self.error(f"no `{key}`")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"`{key}` is {what}, not {brief(value)}")
        return value


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.12g}" if isinstance(value, float) else str(value)


def json_list(path: Path, pictures: Path | None = None) -> Iterator[Row]:
    """The objects of a JSON list. Raises `ValueError` for any other JSON."""
    return _objects(path, list_values(path), pictures)


def json_under(path: Path, key: str, pictures: Path | None = None) -> Iterator[Row]:
    """The objects of the list that stands under `key` of a JSON object."""
    return _objects(path, values_under(path, key), pictures)


def json_items(path: Path, pictures: Path | None = None) -> Iterator[tuple[str, Row]]:
    """(key, row) of a JSON object of objects."""
    for key, value in object_items(path):
        yield key, as_row(f"{path}:{key[:80]}", value, pictures)


def json_lines(path: Path, pictures: Path | None = None) -> Iterator[Row]:
    """The objects of a file that has one a line."""
    with path.open("rb") as file:
        for number, line in _named(path, lines(file)):
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: no JSON: {error}") from None
            yield as_row(f"{path}:{number}", value, pictures)


def tab_lines(path: Path, names: tuple[str, ...], pictures: Path | None = None) -> Iterator[Row]:
    """Lines of fields with tabs between them. Raises `ValueError` for a line with fewer or more."""
    with path.open("rb") as file:
        for number, line in _named(path, lines(file)):
            fields = line.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
            if len(fields) != len(names):
                raise ValueError(f"{path}:{number}: {len(fields)} fields with tabs between, not {len(names)}")
            yield Row(f"{path}:{number}", dict(zip(names, fields, strict=True)), pictures)


def _named(path: Path, found: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    try:
        yield from found
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _objects(path: Path, values: Iterable[Any], pictures: Path | None) -> Iterator[Row]:
    return (as_row(f"{path}:{number}", value, pictures) for number, value in enumerate(values, 1))


def as_row(place: str, value: Any, pictures: Path | None = None) -> Row:
    """Raises `ValueError` for anything but an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: a row is a JSON object, not {brief(value)}")
    return Row(place, value, pictures)


def reader(rows: Callable[[Path, str], Iterable[Row]], item: Callable[[Row], Item]) -> Callable[[Path, str], Iterator[Item]]:
    """`load` of a task: each row as an item. Raises `ValueError` naming the row for an id that came before."""

    def load(data: Path, split: str) -> Iterator[Item]:
        return distinct((row, item(row)) for row in rows(data, split))

    return load


def distinct(items: Iterable[tuple[Row, Item]]) -> Iterator[Item]:
    """The items. Raises `ValueError` naming the row for an id that came before."""
    places: dict[str, str] = {}
    for row, item in items:
        if item.id in places:
            raise row.error(f"the id {brief(item.id)} occurs twice, first at {places[item.id]}")
        places[item.id] = row.place
        yield item
