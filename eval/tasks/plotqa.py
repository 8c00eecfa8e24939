"""PlotQA (Methani et al., 2020): questions about scientific plots. `{split}/qa_pairs_V1.json` (or `V2`) with a list
`qa_pairs` of rows `image_index, question_string, answer, template, qid`, and `{split}/png/{image_index}.png`; also below
`data/`.

A split is named with its version: `test_v2`, `test_v1`. There is no official scorer; the paper allows 5 % for numbers and
takes texts exactly, which is what relaxed accuracy does. An id is the split and the number of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row


def _rows(data: Path, split: str) -> Iterator[Row]:
    part, version = split.split("_")
    name = f"{part}/qa_pairs_{version.upper()}.json"
    path = layout.file(data, name, f"data/{name}")
    return rows.json_under(path, "qa_pairs", layout.folder(data, f"{part}/png", f"data/{part}/png"))


def _item(row: Row) -> Item:
    image = f"{row.integer('image_index')}.png"
    return Item(
        f"{row.number}", row.text("question_string"), (row.word("answer"),), (row.file(image),), group=image,
        tags={"template": row.optional("template")},
    )  # fmt: skip


TASK = Task(
    "plotqa", rows.reader(_rows, _item), "relaxed_accuracy:pix2struct",
    ("test_v2", "test_v1", "validation_v2", "validation_v1", "train_v2", "train_v1"), by=("template",), instruction=SHORT,
    about="questions about scientific plots, from templates",
    layout="{test,validation,train}/qa_pairs_V1.json, qa_pairs_V2.json and png/",
    download="PlotQA from https://github.com/NiteshMethani/PlotQA",
)  # fmt: skip
