"""Pictures with captions, in whichever of the usual forms SRC is in (the first that is found):

1. tar shards as img2dataset writes them: `KEY.jpg`, `KEY.txt` (or `caption` in `KEY.json`);
2. tables, .csv, .tsv or .jsonl, with a column for the picture's file and one for its caption, such as the `metadata.csv` of
   an image folder; names are looked for beside the table and in `images/` there;
3. folders of pictures, each with its caption in `NAME.txt`, or as `caption` in `NAME.json`, beside it.

Folders are walked in the order of their names; hidden files are left alone, links and files of other kinds are counted. What
lies below a folder `train`, `val` (`validation`) or `test` of SRC goes to the shards of this name, all else to `pairs`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from datasets.convert.common import OTHER, PICTURE_ENDINGS, UNREAD_PICTURES, Skips, filled, inside, walked
from datasets.convert.json_stream import DECODER
from datasets.convert.pictures import UNREAD, checked, read_image
from datasets.convert.rows import read_rows, text_lines
from datasets.members import from_members
from datasets.shard_scan import BROKEN, MAX_SAMPLE, scan
from datasets.source import BadSample
from datasets.tar_members import keyed_members
from vlm.sample import Image, Sample, Text

TABLES = (".csv", ".tsv", ".jsonl", ".jsonl.gz")
PICTURE_FIELDS = ("file_name", "image", "image_path", "filename", "filepath", "file", "path")
CAPTION_FIELDS = ("caption", "text", "TEXT", "description")
BESIDE_SHARDS = ("_stats.json", ".parquet")  # what img2dataset says of a shard
MAX_CAPTION = 1 << 20  # bytes of a file beside a picture
SOURCES = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-field", metavar="NAME", help=f"a table's pictures (default: {', '.join(PICTURE_FIELDS)})")
    parser.add_argument("--caption-field", metavar="NAME", help=f"a table's captions (default: {', '.join(CAPTION_FIELDS)})")


def convert(src: Path, skips: Skips, *, image_field: str | None = None, caption_field: str | None = None) -> Iterator[Sample]:
    """A sample a picture, its caption learnt. Raises `ValueError` when SRC holds none of the three forms."""
    root = src if src.is_dir() else src.parent
    fields = ((image_field,) if image_field else PICTURE_FIELDS, (caption_field,) if caption_field else CAPTION_FIELDS)
    names = [path.relative_to(src).as_posix() for path in walked(src, skips)] if src.is_dir() else [src.name]
    if shards := _ending(names, ".tar"):
        _count_others(names, (".tar", *BESIDE_SHARDS), skips)
        for name in shards:
            yield from _shard(root, name, skips)
    elif tables := _ending(names, TABLES):
        _count_others(names, (*TABLES, *PICTURE_ENDINGS), skips)
        for name in tables:
            yield from _table(root, name, *fields, skips)
    elif src.is_dir() and _ending(names, PICTURE_ENDINGS):
        _count_others(names, (".txt", ".json", *PICTURE_ENDINGS, *UNREAD_PICTURES), skips)
        yield from _folders(root, names, skips)
    else:
        _count_others(names, (), skips)
        raise ValueError(f"{src} holds no pairs: no .tar, no {', '.join(TABLES)} and no pictures")


def _ending(names: list[str], endings: str | tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower().endswith(endings)]


def _count_others(names: list[str], endings: tuple[str, ...], skips: Skips) -> None:
    for name in names:
        if not name.lower().endswith(endings):
            skips.add(OTHER, name)


def _source(name: str) -> str:
    return SOURCES.get(PurePosixPath(name).parts[0].lower(), "pairs")


def _shard(root: Path, name: str, skips: Skips) -> Iterator[Sample]:
    """Read as a source of shards is, once and in order, so that no index of it is kept in SRC."""
    try:
        facts, places = scan(root / name)
    except ValueError:
        skips.add("shard is compressed: it must be unpacked to .tar first", name)
        return
    if not places:
        skips.add("file is no tar" if facts.cut else "shard without samples", name)
        return
    for reason, count in facts.skipped.items():
        skips.add(f"member of a shard: {reason}", name, count)
    if facts.cut:
        skips.add("shard cut off", name)
    with (root / name).open("rb") as file:
        for start, stop in zip(places[::2], places[1::2], strict=True):
            try:
                sample = _member_sample(file, start, stop)
            except BadSample as bad:
                skips.add(bad.reason, f"{name}: {bad.detail}")
                continue
            pictures = [s.data for s in sample.segments if isinstance(s, Image) and isinstance(s.data, bytes)]
            captions = [text for s in sample.segments if isinstance(s, Text) and (text := filled(s.text))]
            yield from _pair(pictures, captions, f"{name}:{sample.key}", name, skips)


def _member_sample(file: BinaryIO, start: int, stop: int) -> Sample:
    """Raises `BadSample`."""
    if stop - start > MAX_SAMPLE:
        raise BadSample("too large", f"a sample of {stop - start:,} bytes at byte {start:,}")
    file.seek(start)
    try:
        return from_members(*keyed_members(file.read(stop - start)), "")
    except BROKEN as error:
        raise BadSample("broken shard", f"{error} at byte {start:,}") from None


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


def _folders(root: Path, names: list[str], skips: Skips) -> Iterator[Sample]:
    for name in _ending(names, PICTURE_ENDINGS):
        try:
            caption = _caption(root, name)
        except UnicodeDecodeError:
            skips.add("caption is not UTF-8", name)
            continue
        if caption is None:
            skips.add("picture without a caption", name)
        elif (data := read_image(root, name, skips)) is not None:
            yield Sample((Image(data), Text(caption)), name, _source(name))
    for name in _ending(names, UNREAD_PICTURES):
        skips.add(UNREAD, name)
    pictured = {_stem(name) for name in _ending(names, (*PICTURE_ENDINGS, *UNREAD_PICTURES))}
    for name in _ending(names, ".txt"):
        if _stem(name) not in pictured:
            skips.add("caption without a picture", name)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _caption(root: Path, name: str) -> str | None:
    """What stands beside a picture; of a .txt and a .json the former. Raises `UnicodeDecodeError`."""
    stem = _stem(name)
    text = inside(root, f"{stem}.txt")
    if text and text.stat().st_size <= MAX_CAPTION and (found := filled(text.read_text("utf-8-sig"))):
        return found
    record = inside(root, f"{stem}.json")
    if record and record.stat().st_size <= MAX_CAPTION:
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            value = DECODER.decode(record.read_text("utf-8-sig"))
            return filled(value.get("caption")) if isinstance(value, dict) else None
    return None
