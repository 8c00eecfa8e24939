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

from datasets.convert.common import Skips, inside, read_image, read_rows
from vlm.sample import Image, Sample, Segment, Text

ENDINGS = (".json", ".jsonl", ".jsonl.gz")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-alt", dest="alt", action="store_false", help="leave out the images' descriptions")


def convert(src: Path, skips: Skips, *, alt: bool = True) -> Iterator[Sample]:
    """A sample a page, all its text learnt. Raises `ValueError` when no file has the lists."""
    root = src if src.is_dir() else src.parent
    files = sorted(p for p in src.iterdir() if p.name.endswith(ENDINGS)) if src.is_dir() else [src]
    seen = False
    for path in files:
        for where, row in read_rows(path, skips):
            texts, images = row.get("texts"), row.get("images")
            if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
                skips.add("no parallel texts and images", where)
                continue
            seen = True
            segments = tuple(_segments(root, texts, images, alt, skips))
            if any(isinstance(s, Text) for s in segments):
                name = row.get("id")
                yield Sample(segments, key=name if isinstance(name, str) else where, source=path.name.split(".")[0])
            else:
                skips.add("page without text", where)
    if not seen:
        raise ValueError(f"{src} is not in the interleaved layout: no {', '.join(ENDINGS)} whose rows have texts and images")


def _segments(root: Path, texts: list, images: list, alt: bool, skips: Skips) -> Iterator[Segment]:
    before = ""  # what parts a text from the text before it
    for text, image in zip(texts, images, strict=True):
        if isinstance(text, str) and text.strip():
            yield Text(f"{before}{text.strip()}")
            before = "\n\n"
        if image is not None:
            name, description = (image.get("file"), image.get("alt")) if isinstance(image, dict) else (image, None)
            data = read_image(_root(root, name), name, skips)
            if data is None:
                continue
            yield Image(data)
            if alt and isinstance(description, str) and description.strip():
                yield Text(description.strip())
            before = "\n\n"


def _root(root: Path, name: object) -> Path:
    """The folder that the name belongs to."""
    folder = root / "images"
    return folder if isinstance(name, str) and inside(folder, name) else root
