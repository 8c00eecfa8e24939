"""Captions of COCO's photographs on the split of Karpathy & Fei-Fei (2015): `dataset_coco.json` with a list `images` of
`filepath, filename, split, cocoid, sentences` (each with its `raw` text), and the pictures in `val2014/` and `train2014/`
(`coco.py` says where). `train` also takes `restval`, as captioning models do.

CIDEr weighs words by the references of all pictures that are scored: a figure of `--limit` is not one of the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import coco, layout, rows
from eval.tasks.base import Item, Task
from eval.tasks.rows import Row

PARTS = {"test": ("test",), "val": ("val",), "train": ("train", "restval")}


def _rows(data: Path, split: str) -> Iterator[Row]:
    path = layout.file(data, "dataset_coco.json", "annotations/dataset_coco.json", "caption_datasets/dataset_coco.json")
    folders: dict[str, Path] = {}
    for row in rows.json_under(path, "images"):
        if row.text("split") in PARTS[split]:
            subset = row.text("filepath")
            if subset not in ("val2014", "train2014"):
                raise row.error(f"`filepath` is val2014 or train2014, not {subset[:80]!r}")
            yield Row(row.place, row.data, folders.get(subset) or folders.setdefault(subset, coco.pictures(data, subset)))


def _item(row: Row) -> Item:
    key = row.word("cocoid")
    captions = tuple(sentence.text("raw").strip() for sentence in row.rows("sentences"))
    return Item(key, "Describe the picture in one sentence.", captions, (row.picture("filename"),), group=key)


TASK = Task(
    "coco_caption", rows.reader(_rows, _item), "caption:coco", ("test", "val", "train"), max_new_tokens=32,
    about="captions of photographs, Karpathy's split",
    layout="dataset_coco.json, val2014/ and train2014/",
    download="caption_datasets.zip from https://cs.stanford.edu/people/karpathy/deepimagesent and pictures from https://cocodataset.org",
    sizes={"test": 5000, "val": 5000, "train": 113287},
)  # fmt: skip
