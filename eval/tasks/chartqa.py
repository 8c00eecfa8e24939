"""ChartQA (Masry et al., 2022) in its official layout: `{split}/{split}_human.json`, `{split}_augmented.json`, `{split}/png/`.

Rows are `imgname, query, label`. Human and augmented questions are told apart, pooled, and the mean of both is given
beside (on the full test set they are equally many). A part that is not there is left out; its absence shows in `by_part`.
"""

from __future__ import annotations

import json
from pathlib import Path

from eval.tasks import Item, Task

PARTS = ("human", "augmented")
DOWNLOAD = "download ChartQA from https://huggingface.co/datasets/ahmed-masry/ChartQA and give its folder by --data"


def load(data: Path | None, split: str) -> list[Item]:
    """All questions of a split. Raises `ValueError` saying what to download where when there is none."""
    if data is None:
        raise ValueError(f"task chartqa needs --data: {DOWNLOAD}")
    folder = Path(data) / split
    found = [(part, folder / f"{split}_{part}.json") for part in PARTS]
    items = [item for part, path in found if path.is_file() for item in _read(path, split, part, folder / "png")]
    if not items:
        raise ValueError(f"no {found[0][1].name} or {found[1][1].name} in {folder}: {DOWNLOAD}")
    return items


def _read(path: Path, split: str, part: str, pictures: Path) -> list[Item]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_item(row, f"{split}-{part}-{index}", part, pictures) for index, row in enumerate(rows)]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a list of rows with imgname, query and label: {error!r}") from None


def _item(row: dict, key: str, part: str, pictures: Path) -> Item:
    name = Path(row["imgname"]).name  # a file of this folder, whatever the row says
    return Item(key, row["query"], (str(row["label"]),), (pictures / name,), group=name, tags={"part": part})


TASK = Task("chartqa", load, "relaxed_accuracy:pix2struct", ("test", "val", "train"), by=("part",), mean_of="part")
