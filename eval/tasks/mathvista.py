"""MathVista (Lu et al., 2024): mathematics in pictures. `testmini.json` and `test.json` (id → `question, image, choices,
unit, precision, answer, question_type, answer_type, metadata`), also below `data/`, with `images/`; or `testmini-*.parquet`,
with pictures as `decoded_image`.

Choices are lettered and the gold answer is a choice's text; a number is compared at the row's `precision`. The official
pipeline asks a language model to find the answer in an output: here it is what follows the last "answer is" or `Answer:`
(parser `final`), so figures are not those of the leaderboard. The answers of `test` are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import LETTER, Item, Task
from eval.tasks.rows import Row

ABOUT = ("task", "category", "context", "grade", "source")
WANTED = {"integer": "Answer with a whole number.", "list": "Answer with a list, such as [1, 2, 3].", "text": "Answer briefly."}


def _rows(data: Path, split: str) -> Iterator[Row]:
    if packed := parquet.files(data, split):
        yield from parquet.rows(packed)
        return
    path = layout.file(data, f"{split}.json", f"data/{split}.json")
    layout.folder(data, "images")
    for key, row in rows.json_items(path, data.resolve()):
        yield Row(row.place, {"pid": key, **row.data}, row.pictures)


def _item(row: Row) -> Item:
    about, kind = row.row("metadata"), row.text("answer_type")
    unit = f" (Unit: {row.optional('unit')})" if row.optional("unit") else ""
    choices = row.choices("choices") if row.text("question_type") == "multi_choice" else None
    precision = row.integer("precision") if row.has("precision") else None
    key, answer = row.word("pid"), row.optional("answer")
    return Item(
        key, row.text("question") + unit, (answer,) if answer else (), (row.picture(row.first("decoded_image", "image")),),
        group=key, choices=choices, instruction=LETTER if choices else wanted(kind, precision),
        tags={name: about.optional(name) for name in ABOUT}
        | {"answer_type": kind, "skills": about.texts("skills") if about.has("skills") else ()},
        options={"question_type": row.text("question_type"), "precision": precision},
    )  # fmt: skip


def wanted(kind: str, precision: int | None) -> str:
    """The instruction for an answer of a type."""
    places = "one decimal place" if precision in (None, 1) else f"{precision} decimal places"
    return f"Answer with a number with {places}." if kind == "float" else WANTED.get(kind, WANTED["text"])


TASK = Task(
    "mathvista", rows.reader(_rows, _item), "multiple_choice:mathvista", ("testmini", "test"),
    by=("task", "category", "answer_type", "skills"), max_new_tokens=24, parser="final",
    about="mathematics in pictures, open and with choices",
    layout="testmini.json (or data/testmini.json) and images/; or testmini-*.parquet",
    download="MathVista from https://huggingface.co/datasets/AI4Math/MathVista",
    sizes={"testmini": 1000, "test": 5141},
)  # fmt: skip
