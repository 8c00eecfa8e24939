"""GQA (Hudson & Manning, 2019): questions about scene graphs of photographs. `{split}_questions.json` (id → `question,
answer, imageId, types`, also below `questions/` or `questions1.2/`) and `images/{imageId}.jpg`; or the folders
`{split}_instructions/` and `{split}_images/` of parquet files.

Comparison ignores case and punctuation, as lmms-eval's does. The official script's consistency, validity, plausibility and
distribution need the scene graphs and are not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row


def _rows(data: Path, split: str) -> Iterator[Row]:
    part = split.partition("_")[0]
    if packed := parquet.files(data, part, f"{split}_instructions"):
        shown = parquet.wanted(parquet.files(data, part, f"{split}_images"), f"{split}_images/{part}-*.parquet", data)
        pictures = {row.word("id"): row.picture("image") for row in parquet.rows(shown)}
        for row in parquet.rows(packed):
            if (image := row.word("imageId")) not in pictures:
                raise row.error(f"{split}_images/ has no picture {image!r}")
            yield Row(row.place, {**row.data, "image": pictures[image]})
        return
    name = f"{split}_questions.json"
    path = layout.file(data, name, f"questions/{name}", f"questions1.2/{name}")
    for key, row in rows.json_items(path, layout.folder(data, "images")):
        yield Row(row.place, {**row.data, "id": key}, row.pictures)


def _item(row: Row) -> Item:
    image, types = row.word("imageId"), row.row("types") if row.has("types") else Row(row.place, {})
    picture = row.picture("image") if row.has("image") else row.file(f"{image}.jpg")
    tags = {name: types.optional(name) for name in ("structural", "semantic")}
    return Item(row.word("id"), row.text("question"), (row.text("answer"),), (picture,), group=image, tags=tags)


TASK = Task(
    "gqa", rows.reader(_rows, _item), "exact_match:lmms_eval", ("testdev_balanced", "val_balanced", "train_balanced"),
    by=("structural", "semantic"), instruction=SHORT, about="questions from scene graphs of photographs",
    layout="testdev_balanced_questions.json (or questions1.2/) and images/; or parquet: {split}_instructions/, {split}_images/",
    download="GQA from https://cs.stanford.edu/people/dorarad/gqa/download.html or https://huggingface.co/datasets/lmms-lab/GQA",
    sizes={"testdev_balanced": 12578, "val_balanced": 132062, "train_balanced": 943000},
)  # fmt: skip
