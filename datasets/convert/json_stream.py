"""JSON files of any size, one value at a time: the values of a list, the items of an object, the list under one key.

Annotations come as one JSON list of up to gigabytes, and `json.loads` needs several times the file. Here the standard library's
own decoder reads from a window of the file that grows only until it holds one whole value (`MAX_VALUE` at most), so memory
does not depend on the file. Bytes that are not UTF-8 come as half surrogates, by which a sample of them is known; a number of
thousands of digits comes as null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

WINDOW = 1 << 20  # characters read at a time
MAX_VALUE = 64 << 20  # characters of one value


def _integer(digits: str) -> int | None:
    """`None` for a number of thousands of digits, which Python does not read: no reason to lose its row."""
    try:
        return int(digits)
    except ValueError:
        return None


DECODER = json.JSONDecoder(parse_int=_integer)
_SPACE = re.compile(r"[ \t\n\r]*")
_PARTING = set(",:]} \t\n\r")  # what may follow a value: without it a number may go on behind the window


def list_values(path: Path) -> Iterator[Any]:
    """The values of a top-level list. Raises `ValueError`, also in mid-file, where the text is no such list."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        window = _Window(file, path)
        if window.peek() != "[":
            raise ValueError(f"{path} is no JSON list")
        yield from window.values()
        window.expect("")


def object_items(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, value) of a top-level object. Raises `ValueError`, also in mid-file, where the text is none."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        window = _open_object(file, path)
        for key in window.items_begun():
            yield key, window.value()
        window.expect("")


def values_under(path: Path, key: str) -> Iterator[Any]:
    """The values of the list that stands under `key` of a top-level object; other lists are passed over value by value.

    Raises `ValueError`, also in mid-file, where the text is no such object.
    """
    found = False
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        window = _open_object(file, path)
        for name in window.items_begun():
            if window.peek() != "[":
                window.value()
                continue
            for value in window.values():
                if name == key:
                    yield value
            found = found or name == key
        window.expect("")
    if not found:
        raise ValueError(f"{path} has no list {key!r}")


def _open_object(file: TextIO, path: Path) -> _Window:
    window = _Window(file, path)
    if window.peek() != "{":
        raise ValueError(f"{path} is no JSON object")
    return window


class _Window:
    """A stretch of the file from where the next token begins."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.before, self.ended = "", 0, 0, False

    def values(self) -> Iterator[Any]:
        """The values of the list that begins here."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        while True:
            yield self.value()
            if self.expect(",]") == "]":
                return

    def items_begun(self) -> Iterator[str]:
        """The keys of the object that begins here; who iterates takes each value before the next key."""
        self.expect("{")
        if self.peek() == "}":
            self.expect("}")
            return
        while True:
            if self.peek() != '"':
                self.fail("a key was expected")
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",}") == "}":
                return

    def value(self) -> Any:
        """The value that begins here, whatever it is."""
        self.peek()
        size = WINDOW
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if self.ended or self.text[end : end + 1] in _PARTING:
                    self.at = end
                    return value
                reason = "a value does not end"
            except RecursionError:
                self.fail("nested too deeply")
            except ValueError as error:
                reason = getattr(error, "msg", None) or str(error)
            if self.ended or len(self.text) - self.at > MAX_VALUE:
                self.fail(reason)
            self._read(size)
            size *= 2

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._read(WINDOW)

    def expect(self, characters: str) -> str:
        """Take one of `characters` (none given: the file must end)."""
        found = self.peek()
        if (found not in characters) if found else bool(characters):
            self.fail(f"{' or '.join(map(repr, characters)) or 'the end'} was expected")
        self.at += 1
        return found

    def fail(self, reason: str) -> None:
        raise ValueError(f"{self.path} is no JSON: {reason} at character {self.before + self.at:,}")

    def _read(self, size: int) -> None:
        more = self.file.read(size)
        self.before += self.at
        self.text, self.at, self.ended = self.text[self.at :] + more, 0, not more
