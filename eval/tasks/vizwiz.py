"""VizWiz-VQA (Gurari et al., 2018): questions that blind people asked about their photographs. `Annotations/{split}.json`, a
list of rows `image, question, answers, answer_type, answerable`, and pictures as `{split}/{image}`; or `{split}-*.parquet`.

About a quarter cannot be answered from the picture: there "unanswerable" is the right answer, and the instruction says so.
Answers of `test` are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row


def _rows(data: Path, split: str) -> Iterator[Row]:
    if packed := parquet.files(data, split) or parquet.files(data, f"{split}idation"):
        return parquet.rows(packed)
    path = layout.file(data, f"Annotations/{split}.json", f"{split}.json")
    return rows.json_list(path, layout.folder(data, split, f"images/{split}"))


def _item(row: Row) -> Item:
    image = row.picture("image")
    key = row.word("question_id") if row.has("question_id") else image.name
    kind = row.optional(row.first("answer_type", "category"))
    answers = row.answers() if row.has("answers") else ()
    return Item(key, row.text("question"), answers, (image,), group=image.name, tags={"answer_type": kind})


TASK = Task(
    "vizwiz", rows.reader(_rows, _item), "vqa_accuracy:evalai", ("val", "train", "test"), by=("answer_type",),
    instruction=f'{SHORT} Answer "unanswerable" when the picture does not tell.',
    about="questions of blind people about their photographs",
    layout="Annotations/{split}.json and {split}/; or {split}-*.parquet",
    download="VizWiz-VQA from https://vizwiz.org/tasks-and-datasets/vqa or https://huggingface.co/datasets/lmms-lab/VizWiz-VQA",
    sizes={"val": 4319, "train": 20523, "test": 8000},
)  # fmt: skip
