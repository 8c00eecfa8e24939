"""An evaluation set to compare with: shards, or a public set as it was downloaded (a folder of pictures and JSON rows).

Of a folder, every picture counts, and every row of a .json list, .jsonl or .jsonl.gz whose question stands under a usual name.
Nothing outside the folder is read: links are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import MAX_IMAGE, Skips, read_rows
from datasets.quality.overlap import EvalIndex
from datasets.quality.pictures import PictureHashes, frames
from datasets.quality.stream import read
from datasets.shards import find_shards
from vlm.sample import Image, Sample, Text

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ROWS = (".json", ".jsonl", ".jsonl.gz")
QUESTIONS = ("question", "query", "prompt", "text")  # a row's question, the first of these that it has
MAX_ROWS = 1 << 30  # bytes of one file of rows


def index_evaluation(path: Path, max_distance: int, hashes: PictureHashes, skips: Skips) -> EvalIndex:
    """Raises `ValueError` when there is nothing to compare with."""
    index = EvalIndex(max_distance)
    for name, sample in evaluation_samples(path, skips):
        try:
            index.add(name, sample, [hashes(file) for file in frames(sample)])
        except ValueError as error:
            skips.add("picture broken", f"{name}: {error}")
    if not len(index):
        raise ValueError(f"{path} holds no evaluation samples: no shards, pictures or rows with {', '.join(QUESTIONS)}")
    return index


def evaluation_samples(path: Path, skips: Skips) -> Iterator[tuple[str, Sample]]:
    """(name, sample) of shards or of a folder. Raises `ValueError` when there is neither."""
    if path.is_dir() and not any(path.glob("*.tar")):
        yield from _loose(path, skips)
        return
    for placed in read(find_shards(path), skips, "evaluation samples"):
        yield f"{placed.place} {placed.sample.key}", placed.sample


def _loose(root: Path, skips: Skips) -> Iterator[tuple[str, Sample]]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.is_symlink() or not path.is_file():
                continue
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in PICTURES:
                if path.stat().st_size > MAX_IMAGE:
                    skips.add("image too large", name)
                else:
                    yield name, Sample((Image(path.read_bytes()),), key=name)
            elif path.name.endswith(ROWS):
                yield from _rows(path, name, skips)


def _rows(path: Path, name: str, skips: Skips) -> Iterator[tuple[str, Sample]]:
    if path.stat().st_size > MAX_ROWS:
        skips.add("rows too large", name)
        return
    try:
        for number, (_, row) in enumerate(read_rows(path, skips)):
            question = next((row[field] for field in QUESTIONS if isinstance(row.get(field), str)), None)
            if question is None:
                skips.add("row without a question", f"{name}:{number}")
            else:
                yield f"{name}:{number}", Sample((Text(question, learn=False),), key=f"{name}:{number}")
    except ValueError as error:  # a .json that is no list of rows
        skips.add("no rows", f"{name}: {error}")
