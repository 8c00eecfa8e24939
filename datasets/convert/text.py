"""Plain text: .jsonl and .jsonl.gz with a `text` in each row, .txt files, source trees.

SRC is one file or a folder, walked in the order of its names; hidden files are left alone, links and files of other kinds are
counted. A file of known text or source kind is one document; one over a million characters is split at line ends, so that no
document holds up its lane.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import OTHER, Skips, source_of, walked
from datasets.convert.rows import read_rows
from datasets.text import chunks
from vlm.sample import Sample, Text

ROWS = (".jsonl", ".jsonl.gz")
PROSE = {".txt", ".md", ".rst", ".tex"}
CODE = {
    ".c", ".cc", ".cpp", ".cs", ".css", ".cu", ".go", ".h", ".hpp", ".html", ".java", ".jl", ".js", ".kt", ".lua", ".php",
    ".pl", ".py", ".pyi", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".toml", ".ts", ".xml", ".yaml", ".yml",
}  # fmt: skip
MAX_FILE = 256 << 20  # bytes
LONGEST = 1_000_000  # characters of one document


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", default="text", help="name of the text in a JSON row (default: text)")


def convert(src: Path, skips: Skips, *, field: str = "text") -> Iterator[Sample]:
    """A sample a document. Raises `ValueError` when SRC holds nothing of these kinds."""
    seen = False
    for path in _files(src, skips):
        seen = True
        name = path.name if src.is_file() else path.relative_to(src).as_posix()
        documents = _rows(path, skips, field) if path.name.endswith(ROWS) else _file(path, name, skips)
        for key, text in documents:
            parts = list(chunks(text, LONGEST))
            if not parts:
                skips.add("empty", key)
            for number, part in enumerate(parts):
                yield Sample((Text(part),), key=f"{key}#{number}" if len(parts) > 1 else key, source=_source(path, src))
    if not seen:
        raise ValueError(f"{src} holds no text: no {', '.join(ROWS)}, {', '.join(sorted(PROSE))} or source files")


def _files(src: Path, skips: Skips) -> Iterator[Path]:
    if src.is_file():
        yield src
        return
    for path in walked(src, skips):
        if path.suffix.lower() in PROSE | CODE or path.name.endswith(ROWS):
            yield path
        else:
            skips.add(OTHER, path.relative_to(src).as_posix())


def _rows(path: Path, skips: Skips, field: str) -> Iterator[tuple[str, str]]:
    for where, row in read_rows(path, skips):
        if isinstance(row.get(field), str):
            yield str(row.get("id") or where), row[field]
        else:
            skips.add(f"row without a {field!r}", where)


def _file(path: Path, name: str, skips: Skips) -> Iterator[tuple[str, str]]:
    if path.stat().st_size > MAX_FILE:
        skips.add("file too large", name)
        return
    try:
        yield name, path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        skips.add("file is not UTF-8", name)


def _source(path: Path, src: Path) -> str:
    """Rows keep their file's name; the files of a tree share the tree's."""
    return source_of(path) if path.name.endswith(ROWS) or src.is_file() else src.resolve().name
