"""NLVR2 (Suhr et al., 2019): is a sentence true of two photographs? `{split}.json`, lines of `identifier, sentence, label,
directory`, also below `data/` or `nlvr2/data/`; a picture is `{split}-…-img0.png`, in `images/{split}/` (of train
`images/train/{directory}/`) or `{split}/`. Or `*-*.parquet` with `left_image, right_image`.

An identifier is split, set, pair and sentence: the pictures of a set stand in several pairs, so a set is one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import Item, Task
from eval.tasks.rows import Row

PACKED = {"test1": "balanced_test_public", "dev": "balanced_dev"}


def _rows(data: Path, split: str) -> Iterator[Row]:
    if packed := parquet.files(data, split) or parquet.files(data, PACKED.get(split, split)):
        yield from parquet.rows(packed)
        return
    path = layout.file(data, f"{split}.json", f"data/{split}.json", f"nlvr2/data/{split}.json")
    folder = layout.folder(data, f"images/{split}", split)
    for row in rows.json_lines(path, folder):
        stem = row.text("identifier").rpartition("-")[0]
        place = f"{row.word('directory')}/" if split == "train" and row.has("directory") else ""
        yield Row(
            row.place, {**row.data, "left_image": f"{place}{stem}-img0.png", "right_image": f"{place}{stem}-img1.png"}, folder
        )


def _item(row: Row) -> Item:
    key, label = row.text(row.first("identifier", "question_id")), row.word(row.first("label", "answer")).strip().capitalize()
    if label not in ("True", "False"):
        raise row.error(f"the label is True or False, not {label[:80]!r}")
    question = f"True or false of the two pictures: {row.text(row.first('sentence', 'question'))}"
    pictures = (row.picture("left_image"), row.picture("right_image"))
    return Item(key, question, (label,), pictures, group="-".join(key.split("-")[:2]))


TASK = Task(
    "nlvr", rows.reader(_rows, _item), "exact_match:lmms_eval", ("dev", "test1", "train"), max_new_tokens=8,
    instruction='Answer with "True" or "False".', about="is a sentence true of two photographs (NLVR2)",
    layout="{split}.json (or nlvr2/data/) and images/{split}/ (or {split}/); or {split}-*.parquet",
    download="NLVR2 from https://lil.nlp.cornell.edu/nlvr or https://huggingface.co/datasets/lmms-lab/NLVR2",
    sizes={"dev": 6982, "test1": 6967, "train": 86373},
)  # fmt: skip
