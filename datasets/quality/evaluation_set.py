"""An evaluation set to compare with: shards, or a public set as it was downloaded (a folder of pictures and JSON rows).

Of a folder, every row of a .json list, .jsonl or .jsonl.gz whose question stands under a usual name is a sample, together with
the pictures that it names, and so is each picture that no row names. A name is a path's end; of several pictures of one name
the row's is the one that lies nearest to it. Nothing outside the folder is read: links are passed over.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datasets.convert.common import PICTURE_ENDINGS, Skips, walked
from datasets.convert.pictures import MAX_IMAGE, MISSING
from datasets.convert.rows import read_rows
from datasets.quality.overlap import EvalIndex
from datasets.quality.pictures import PictureHash, PictureHashes, frames
from datasets.quality.stream import read
from datasets.shards import find_shards
from vlm.sample import Image, Sample, Text

ROWS = (".json", ".jsonl", ".jsonl.gz")
QUESTIONS = ("question", "query", "prompt", "text")  # a row's question, the first of these that it has
IMAGES = (
    "image",
    "imgname",
    "images",
    "file_name",
    "image_path",
    "filename",
)  # likewise its pictures, one or a list
MAX_ROWS = 1 << 30  # bytes of one file of rows


def index_evaluation(path: Path, max_distance: int, hashes: PictureHashes, skips: Skips) -> EvalIndex:
    """Raises `ValueError` when there is nothing to compare with."""
    index = EvalIndex(max_distance)
    for name, sample in evaluation_samples(path, skips):
        seen = list(_hashes(name, sample, hashes, skips))
        if seen or any(isinstance(segment, Text) for segment in sample.segments):
            index.add(name, sample, seen)
    if not len(index):
        raise ValueError(f"{path} holds no evaluation samples: no shards, pictures or rows with {', '.join(QUESTIONS)}")
    return index


def _hashes(name: str, sample: Sample, hashes: PictureHashes, skips: Skips) -> Iterator[PictureHash]:
    """Of the pictures that can be opened: a question under a broken one is compared all the same."""
    for file in frames(sample):
        try:
            yield hashes(file)
        except ValueError as error:
            skips.add("picture broken", f"{name}: {error}")


def evaluation_samples(path: Path, skips: Skips) -> Iterator[tuple[str, Sample]]:
    """(name, sample) of shards or of a folder. Raises `ValueError` when there is neither."""
    if path.is_dir() and not any(path.glob("*.tar")):
        yield from _loose(path, skips)
        return
    for placed in read(find_shards(path), skips, "evaluation samples"):
        yield f"{placed.place} {placed.sample.key}", placed.sample


@dataclass
class _Pictures:
    """Names of the pictures of a folder, by their last part; `used` are those that rows name."""

    by_last: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    used: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        self.by_last[PurePosixPath(name).name].append(name)

    def find(self, asked: str, beside: str) -> str | None:
        """The picture whose path ends with `asked`, of several the one with most folders in common with the file `beside`."""
        parts = [part for part in PurePosixPath(asked).parts if part != "."]
        named = self.by_last.get(parts[-1], []) if parts else []
        ending = [name for name in named if list(PurePosixPath(name).parts[-len(parts) :]) == parts]
        found = max(ending, key=lambda name: _in_common(name, beside), default=None)
        self.used |= {found} if found else set()
        return found


def _in_common(one: str, other: str) -> int:
    """Folders that both lie in."""
    pairs = zip(PurePosixPath(one).parts[:-1], PurePosixPath(other).parts[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _picture(root: Path, name: str, skips: Skips) -> Image | None:
    path = root / name
    if path.stat().st_size <= MAX_IMAGE:
        return Image(path.read_bytes())
    skips.add("image too large", name)
    return None


def _loose(root: Path, skips: Skips) -> Iterator[tuple[str, Sample]]:
    names = [path.relative_to(root).as_posix() for path in walked(root, skips)]
    pictures = _Pictures()
    for name in names:
        if name.lower().endswith(PICTURE_ENDINGS):
            pictures.add(name)
    for name in names:
        if name.endswith(ROWS):
            yield from _rows(root, name, pictures, skips)
    alone = (name for name in names if name.lower().endswith(PICTURE_ENDINGS) and name not in pictures.used)
    for name in alone:
        if picture := _picture(root, name, skips):
            yield name, Sample((picture,), key=name)


def _rows(root: Path, name: str, pictures: _Pictures, skips: Skips) -> Iterator[tuple[str, Sample]]:
    if (root / name).stat().st_size > MAX_ROWS:
        skips.add("rows too large", name)
        return
    try:
        for where, row in read_rows(root / name, skips):
            key = str(PurePosixPath(name).with_name(where))
            question = next((row[field] for field in QUESTIONS if isinstance(row.get(field), str)), None)
            shown = list(_shown(root, name, row, key, pictures, skips))
            if question is None:
                skips.add("row without a question", key)
            else:
                yield key, Sample((*shown, Text(question, learn=False)), key=key)
    except ValueError as error:  # a .json that is no list of rows
        skips.add("no rows", f"{name}: {error}")


def _shown(root: Path, name: str, row: dict, key: str, pictures: _Pictures, skips: Skips) -> Iterator[Image]:
    """The pictures that a row names; those that are not there are counted."""
    given = next((row[field] for field in IMAGES if row.get(field)), [])
    for one in given if isinstance(given, list) else [given]:
        found = pictures.find(one, name) if isinstance(one, str) else None
        if found is None:
            skips.add(f"image {MISSING}", f"{key}: {one}")
        elif picture := _picture(root, found, skips):
            yield picture
