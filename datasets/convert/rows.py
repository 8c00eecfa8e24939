"""Rows of JSON and lines of text from files of others, one at a time, so that a file may be larger than memory.

Rows and lines are numbered from 1. A line that is not UTF-8 is counted and left out; in a .json list such bytes come as half
surrogates, which no sample may hold (datasets/convert/__main__.py counts it).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from datasets.convert.common import Skips
from datasets.convert.json_stream import DECODER, list_values

MAX_LINE = 64 << 20  # characters of one line


def read_rows(path: Path, skips: Skips) -> Iterator[tuple[str, dict]]:
    """(`file:number`, row) of a .json list, or of .jsonl, also as .gz or .zip; rows that are no objects are counted.

    Raises `ValueError`, also in mid-file, where a .json file is no list.
    """
    rows = _json_lines(path, skips) if ".jsonl" in path.name else enumerate(list_values(path), 1)
    for number, row in rows:
        where = f"{path.name}:{number}"
        if isinstance(row, dict):
            yield where, row
        else:
            skips.add("row is no object", where)


def text_lines(path: Path, skips: Skips) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file, a .gz, or the first .jsonl in a .zip.

    A line that is not UTF-8, or over `MAX_LINE`, is counted and not given.
    """
    number = 0
    try:
        with _open_text(path) as file:
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    skips.add("line too long", f"{path.name}:{number}")
                    while line and not line.endswith("\n"):
                        line = file.readline(MAX_LINE)
                elif is_unicode(line):
                    yield number, line
                else:
                    skips.add("line is not UTF-8", f"{path.name}:{number}")
    # a compressed file that was cut off or damaged; of zip also one with a password, or of a kind that cannot be read
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        skips.add("file cut off", f"{path.name}:{number}: {error}")


def is_unicode(text: str) -> bool:
    """Is it without half surrogates, which JSON can write and no encoding can?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """Bytes that are not UTF-8 become half surrogates."""
    with contextlib.ExitStack() as stack:
        if path.suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            name = next((n for n in archive.namelist() if n.endswith(".jsonl")), None)
            if name is None:
                raise zipfile.BadZipFile("no .jsonl in it")
            file: Any = stack.enter_context(archive.open(name))
        elif path.suffix == ".gz":
            file = stack.enter_context(gzip.open(path))
        else:
            file = stack.enter_context(path.open("rb"))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape"))


def _json_lines(path: Path, skips: Skips) -> Iterator[tuple[int, Any]]:
    """(number of the line, its value); lines that are no JSON are counted."""
    for number, line in text_lines(path, skips):
        if line.strip():
            try:
                value = DECODER.decode(line)
            except (ValueError, RecursionError):
                skips.add("line is no JSON", f"{path.name}:{number}")
            else:
                yield number, value
