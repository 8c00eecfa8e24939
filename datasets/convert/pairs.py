"""Pictures with captions, in whichever of the usual forms SRC is in (the first that is found):

1. tar shards as img2dataset writes them: `KEY.jpg`, `KEY.txt` (or `caption` in `KEY.json`);
2. tables, .csv, .tsv or .jsonl, with a column for the picture's file and one for its caption, such as the `metadata.csv` of
   an image folder; names are looked for beside the table and in `images/` there;
3. folders of pictures, each with its caption in `NAME.txt`, or as `caption` in `NAME.json`, beside it.

Folders are walked in the order of their names; links and hidden files are left alone. What lies below a folder `train`, `val`
(`validation`) or `test` of SRC goes to the shards of this name, all else to `pairs`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datasets.convert.common import PICTURE_ENDINGS, Skips, checked, filled, inside, read_image, read_rows, text_lines
from datasets.shards import ShardSource
from datasets.source import BadSample
from vlm.sample import Image, Sample, Text

TABLES = (".csv", ".tsv", ".jsonl", ".jsonl.gz")
PICTURE_FIELDS = ("file_name", "image", "image_path", "filename", "filepath", "file", "path")
CAPTION_FIELDS = ("caption", "text", "TEXT", "description")
MAX_CAPTION = 1 << 20  # bytes of a file beside a picture
SOURCES = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-field", metavar="NAME", help=f"a table's pictures (default: {', '.join(PICTURE_FIELDS)})")
    parser.add_argument("--caption-field", metavar="NAME", help=f"a table's captions (default: {', '.join(CAPTION_FIELDS)})")


def convert(src: Path, skips: Skips, *, image_field: str | None = None, caption_field: str | None = None) -> Iterator[Sample]:
    """A sample a picture, its caption learnt. Raises `ValueError` when SRC holds none of the three forms."""
    root = src if src.is_dir() else src.parent
    fields = ((image_field,) if image_field else PICTURE_FIELDS, (caption_field,) if caption_field else CAPTION_FIELDS)
    if shards := list(_walk(src, ".tar")):
        for name in shards:
            yield from _shard(root, name, skips)
    elif tables := list(_walk(src, TABLES)):
        for name in tables:
            yield from _table(root, name, *fields, skips)
    elif src.is_dir() and next(_walk(src, PICTURE_ENDINGS), None):
        yield from _folders(root, skips)
    else:
        raise ValueError(f"{src} holds no pairs: no .tar, no {', '.join(TABLES)} and no pictures")


def _walk(src: Path, endings: str | tuple[str, ...]) -> Iterator[str]:
    """Names below SRC, or SRC's own, folder by folder."""
    if src.is_file():
        yield from [src.name] if src.name.lower().endswith(endings) else []
        return
    for folder, subfolders, names in os.walk(src):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.lower().endswith(endings) and not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path.relative_to(src).as_posix()


def _source(name: str) -> str:
    return SOURCES.get(PurePosixPath(name).parts[0].lower(), "pairs")


def _shard(root: Path, name: str, skips: Skips) -> Iterator[Sample]:
    """Read as a source of shards is; like there, an index of the shard is kept beside it where that can be written."""
    try:
        shard = ShardSource(root / name, shuffle=False)
    except ValueError:
        skips.add("shard without samples", name)
        return
    for reason, count in shard.skipped.items():
        skips.add(f"member of a shard: {reason}", name, count)
    if shard.cut:
        skips.add("shard cut off", name)
    for index in range(len(shard)):
        try:
            sample = shard.get(0, index)
        except BadSample as bad:
            skips.add(bad.reason, bad.detail)
            continue
        where = f"{name}:{sample.key}"
        pictures = [s.data for s in sample.segments if isinstance(s, Image) and isinstance(s.data, bytes)]
        captions = [text for s in sample.segments if isinstance(s, Text) and (text := filled(s.text))]
        yield from _pair(pictures, captions, where, name, skips)


def _pair(pictures: list[bytes], captions: list[str], where: str, name: str, skips: Skips) -> Iterator[Sample]:
    if len(pictures) != 1 or len(captions) != 1:
        skips.add("no picture with a caption", where)
    elif (data := checked(pictures[0], where, skips)) is not None:
        yield Sample((Image(data), Text(captions[0])), where, _source(name))


def _table(
    root: Path, name: str, picture_fields: tuple[str, ...], caption_fields: tuple[str, ...], skips: Skips
) -> Iterator[Sample]:
    path, folder = root / name, PurePosixPath(name).parent.as_posix()
    rows = read_rows(path, skips) if ".jsonl" in path.name else _csv_rows(path, picture_fields, caption_fields, skips)
    for where, row in rows:
        picture = next((row[field] for field in picture_fields if filled(row.get(field))), None)
        caption = next((text for field in caption_fields if (text := filled(row.get(field)))), None)
        if picture is None or caption is None:
            skips.add("no picture or no caption", where)
            continue
        data = read_image(root, picture, skips, folders=(folder, f"{folder}/images"))
        if data is not None:
            key = str(PurePosixPath(name).parent / where)
            yield Sample((Image(data), Text(caption)), key, _source(name), {"image": picture})


def _csv_rows(
    path: Path, picture_fields: tuple[str, ...], caption_fields: tuple[str, ...], skips: Skips
) -> Iterator[tuple[str, dict]]:
    """Raises `ValueError` when the header has not both columns. A .tsv knows no quotes, as data sets write them."""
    lines = (line for _, line in text_lines(path, skips))
    plain = path.suffix.lower() == ".tsv"
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if plain else csv.reader(lines)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            skips.add("row unreadable", f"{path.name}:{reader.line_num}: {error}")
            continue
        if not row:
            continue
        if header is not None:
            yield f"{path.name}:{reader.line_num}", dict(zip(header, row, strict=False))
            continue
        header = [column.strip() for column in row]
        _check(path, header, "--image-field", picture_fields)
        _check(path, header, "--caption-field", caption_fields)


def _check(path: Path, header: list[str], option: str, fields: tuple[str, ...]) -> None:
    if not set(fields) & set(header):
        known = ", ".join(header)[:200]
        raise ValueError(f"{path} has no column {' or '.join(fields)}, but {known!a}: name one with {option}")


def _folders(root: Path, skips: Skips) -> Iterator[Sample]:
    for name in _walk(root, PICTURE_ENDINGS):
        caption = _caption(root, name)
        if caption is None:
            skips.add("picture without a caption", name)
        elif (data := read_image(root, name, skips)) is not None:
            yield Sample((Image(data), Text(caption)), name, _source(name))
    for name in _walk(root, ".txt"):
        stem = name.rpartition(".")[0]
        if not any(inside(root, stem + ending) or inside(root, stem + ending.upper()) for ending in PICTURE_ENDINGS):
            skips.add("caption without a picture", name)


def _caption(root: Path, name: str) -> str | None:
    """What stands beside a picture; of a .txt and a .json the former."""
    stem = name.rpartition(".")[0]
    text = inside(root, f"{stem}.txt")
    if text and text.stat().st_size <= MAX_CAPTION and (found := filled(text.read_text("utf-8-sig", "replace"))):
        return found
    record = inside(root, f"{stem}.json")
    if record and record.stat().st_size <= MAX_CAPTION:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(record.read_bytes())
            return filled(value.get("caption")) if isinstance(value, dict) else None
    return None
