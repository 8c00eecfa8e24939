"""Conversations about pictures in LLaVA's form (Liu et al., 2023): rows `id, image, conversations`.

SRC is a .json list, a .jsonl(.gz), or a folder of them; each file becomes a set of shards. `image` is a file name or a list of
them, looked for below `--images` (default: SRC, or SRC's folder), there also in `images/`. Rows without one are of text alone.
A row whose pictures are not all there is skipped: its answers speak of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import Skips, root_of, row_files, source_of
from datasets.convert.conversation import conversation
from datasets.convert.pictures import read_images
from datasets.convert.rows import read_rows
from vlm.sample import Image, Sample

ENDINGS = (".json", ".jsonl", ".jsonl.gz")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: SRC)")


def convert(src: Path, skips: Skips, *, images: str | None = None) -> Iterator[Sample]:
    """A sample a conversation. Raises `ValueError` when no row has one."""
    root, seen = root_of(src, images), False
    for path in row_files(src, ENDINGS, skips):
        for where, row in read_rows(path, skips):
            seen = seen or "conversations" in row
            sample = row_sample(row, where, root, skips, folders=("", "images"), source=source_of(path))
            if sample:
                yield sample
    if not seen:
        raise ValueError(f"{src} is not in LLaVA's layout: no {', '.join(ENDINGS)} whose rows have conversations")


def row_sample(row: dict, where: str, root: Path, skips: Skips, *, folders: tuple[str, ...], source: str) -> Sample | None:
    """The sample of one row; `None`, counted, where it cannot be used."""
    names = row.get("image")
    names = [] if names is None else names if isinstance(names, list) else [names]
    if "video" in row:
        skips.add("a video file, which is not decoded", where)
        return None
    try:
        data = read_images(root, names, skips, folders)
        if None in data:  # counted where it was read
            return None
        segments = conversation(row.get("conversations"), [Image(d) for d in data if d is not None])
    except ValueError as error:
        skips.add(str(error), where)
        return None
    key = str(row["id"]) if isinstance(row.get("id"), str | int) else where
    return Sample(segments, key, source, {"image": names} if names else {})
