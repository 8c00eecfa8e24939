"""Pages of text and pictures as parallel lists, as in OBELICS (Laurençon et al., 2023): `texts` and `images` of one length, one
of each pair null.

SRC is a folder of .json, .jsonl or .jsonl.gz files, or one such file. An image is a file name, or an object with `file` and,
where there is one, a text `alt` that describes it; files are looked for in SRC and in `SRC/images`. An image that is not there
(OBELICS gives addresses; nothing is downloaded) is left out of its page and counted; the page stays.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import Skips, root_of, row_files, source_of
from datasets.convert.pictures import read_image
from datasets.convert.rows import read_rows
from datasets.shards import MAX_SAMPLE
from vlm.sample import Image, Sample, Segment, Text

ENDINGS = (".json", ".jsonl", ".jsonl.gz")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-alt", dest="alt", action="store_false", help="leave out the images' descriptions")


def convert(src: Path, skips: Skips, *, alt: bool = True) -> Iterator[Sample]:
    """A sample a page, all its text learnt. Raises `ValueError` when no file has the lists."""
    root, seen = root_of(src), False
    for path in row_files(src, ENDINGS, skips):
        for where, row in read_rows(path, skips):
            texts, images = row.get("texts"), row.get("images")
            if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
                skips.add("no parallel texts and images", where)
                continue
            seen = True
            try:
                segments = tuple(_segments(root, texts, images, alt, skips))
            except ValueError as error:
                skips.add(str(error), where)
                continue
            if any(isinstance(s, Text) for s in segments):
                name = row.get("id")
                yield Sample(segments, key=name if isinstance(name, str) else where, source=source_of(path))
            else:
                skips.add("page without text", where)
    if not seen:
        raise ValueError(f"{src} is not in the interleaved layout: no {', '.join(ENDINGS)} whose rows have texts and images")


def _segments(root: Path, texts: list, images: list, alt: bool, skips: Skips) -> Iterator[Segment]:
    """Raises `ValueError` when the pictures together are more than a sample may hold."""
    room = MAX_SAMPLE  # bytes
    before = ""  # what parts a text from the text before it
    for text, image in zip(texts, images, strict=True):
        if isinstance(text, str) and text.strip():
            yield Text(f"{before}{text.strip()}")
            before = "\n\n"
        if image is not None:
            name, description = (image.get("file"), image.get("alt")) if isinstance(image, dict) else (image, None)
            data = read_image(root, name, skips, folders=("images", ""))
            if data is None:
                continue
            room -= len(data)
            if room < 0:
                raise ValueError("sample too large")
            yield Image(data)
            if alt and isinstance(description, str) and description.strip():
                yield Text(description.strip())
            before = "\n\n"
