"""COCO captions (Chen et al., 2015): `annotations/captions_{train,val}{2014,2017}.json` beside the folders of pictures, or the
split of Karpathy and Fei-Fei (2015): `dataset_coco.json`, and of the same form `dataset_flickr30k.json`.

Annotation files may lie in SRC or in `SRC/annotations`; pictures below `--images` (default: SRC), there in the folder that the
row or the file's name tells (`train2014/`, …) or in `images/`. Official files become the shards `train2014`, …; the Karpathy
split becomes `train` (its `restval` included, as is usual), `val` and `test`, and is taken where `--karpathy` says so, or where
there is no official file. Every picture has about five captions: each becomes a sample, or with `--captions first` one does.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets.convert.common import Skips, filled, listed, root_of
from datasets.convert.json_stream import values_under
from datasets.convert.pictures import read_image
from vlm.sample import Image, Sample, Text

SUBSETS = ("train2014", "val2014", "train2017", "val2017")
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Captioned:
    """One picture: where it was named, the shards it goes to, its file, the folders that may have it, its captions."""

    where: str
    source: str
    name: object
    folders: tuple[str, ...]
    captions: list[str]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures' folders (default: SRC)")
    parser.add_argument("--karpathy", action="store_true", help="the split of dataset_*.json instead of the official one")
    parser.add_argument("--captions", choices=("each", "first"), default="each", help="samples of a picture (default: each)")


def convert(
    src: Path, skips: Skips, *, images: str | None = None, karpathy: bool = False, captions: str = "each"
) -> Iterator[Sample]:
    """A sample a caption. Raises `ValueError` when there is no annotation file."""
    root, limit = root_of(src, images), 1 if captions == "first" else None
    files = listed(src, ".json", skips) + ([] if src.is_file() else listed(src, ".json", skips, "annotations"))
    official = [] if karpathy else [path for path in files if path.stem.removeprefix("captions_") in SUBSETS]
    split = [] if official else [path for path in files if path.name.startswith("dataset_")]
    if not official and not split:
        names = "dataset_coco.json" if karpathy else "captions_{train,val}{2014,2017}.json or dataset_coco.json"
        raise ValueError(f"{src} is not in COCO's layout: no {names} in it or in annotations/")
    for path in official or split:
        for picture in _official(path, skips) if official else _karpathy(path, skips):
            if not picture.captions:
                skips.add("image without a caption", picture.where)
                continue
            data = read_image(root, picture.name, skips, picture.folders)
            if data is None:
                continue
            for number, text in enumerate(picture.captions[:limit]):
                meta = {"image": picture.name}
                yield Sample((Image(data), Text(text)), f"{picture.where}#{number}", picture.source, meta)


def _official(path: Path, skips: Skips) -> Iterator[Captioned]:
    """In the order of the list of images; the captions stand in another order, and are collected first."""
    subset = path.stem.removeprefix("captions_")
    captions: dict[int, list[str]] = defaultdict(list)
    for number, row in enumerate(values_under(path, "annotations"), 1):
        text, image = (filled(row.get("caption")), row.get("image_id")) if isinstance(row, dict) else (None, None)
        if text and type(image) is int:
            captions[image].append(text)
        else:
            skips.add("no caption or no image_id", f"{path.name}:annotations:{number}")
    for number, row in enumerate(values_under(path, "images"), 1):
        if isinstance(row, dict) and type(row.get("id")) is int:
            folders = (subset, f"images/{subset}", "images", "")
            texts = captions.pop(row["id"], [])
            yield Captioned(f"{path.stem}:{row['id']}", subset, row.get("file_name"), folders, texts)
        else:
            skips.add("image without an id", f"{path.name}:images:{number}")
    for image in captions:
        skips.add("caption of an image that is not listed", f"{path.name}: image {image}")


def _karpathy(path: Path, skips: Skips) -> Iterator[Captioned]:
    folder = f"{path.stem.removeprefix('dataset_')}-images"  # flickr30k-images/
    for number, row in enumerate(values_under(path, "images"), 1):
        where = f"{path.stem}:{number}"
        source = KARPATHY.get(str(row.get("split"))) if isinstance(row, dict) else None
        if source is None or not isinstance(row.get("sentences"), list):
            skips.add("no split or no sentences", where)
            continue
        given = row["filepath"] if isinstance(row.get("filepath"), str) else folder
        texts = [text for s in row["sentences"] if isinstance(s, dict) and (text := filled(s.get("raw")))]
        yield Captioned(where, source, row.get("filename"), (given, f"images/{given}", "images", ""), texts)
