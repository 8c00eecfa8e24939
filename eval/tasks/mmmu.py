"""MMMU (Yue et al., 2024): college exams with up to seven pictures, which the text names as `<image 1>`. Parquet files, as
`{Subject}/{split}-*.parquet` or all subjects in one (`data/{split}-*.parquet`), rows `id, question, options, answer,
question_type, image_1 … image_7`.

`options` is a list written as Python writes it; an open question (`question_type` "open") has none, and its answer may be
such a list too. The report is by subject and by the six disciplines of the paper. The answers of `test` are not public.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from eval.metrics.base import LETTERS, brief
from eval.tasks import parquet, rows
from eval.tasks.base import LETTER, SHORT, Item, Picture, Task
from eval.tasks.rows import Row

LONGEST = 50_000  # characters of a list as text
DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power", "Materials",
        "Mechanical_Engineering",
    ),
}  # fmt: skip
DISCIPLINE = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects}


def _rows(data: Path, split: str) -> Iterator[Row]:
    found = parquet.files(data, split) or [
        path for subject in sorted(DISCIPLINE) for path in parquet.files(data, split, subject)
    ]
    return parquet.rows(parquet.wanted(found, f"{split}-*.parquet, nor Accounting/{split}-*.parquet and its like,", data))


def _item(row: Row) -> Item:
    key = row.text("id")
    subject = key.split("_", 1)[-1].rsplit("_", 1)[0]
    texts = listed(row, "options") if row.has("options") else []
    choices = dict(zip(LETTERS, texts, strict=False)) if texts else None
    if len(texts) > len(LETTERS):
        raise row.error(f"`options` has {len(texts)} choices, over {len(LETTERS)}")
    return Item(
        key, row.text("question"), answers(row), _pictures(row), choices=choices, group=key,
        instruction=LETTER if choices else SHORT,
        tags={"subject": subject, "discipline": DISCIPLINE.get(subject, "other")},
        options={"question_type": row.text("question_type")},
    )  # fmt: skip


def answers(row: Row) -> tuple[str, ...]:
    """A letter, a text, or several in a list; () for "?", which stands for an answer that is not public."""
    text = row.optional("answer")
    if text.startswith("[") and row.text("question_type") == "open":
        return tuple(listed(row, "answer"))
    return (text,) if text not in ("", "?") else ()


def listed(row: Row, key: str) -> list[str]:
    """A list of texts or numbers, written as Python writes it; nothing else is evaluated."""
    if isinstance(row.data.get(key), list):
        return list(row.words(key))
    text = row.text(key)
    try:
        values = ast.literal_eval(text) if len(text) <= LONGEST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, list | tuple) or not all(isinstance(value, str | int | float) for value in values):
        raise row.error(f"`{key}` is a list of texts, not {brief(text)}")
    return [str(value) for value in values]


def _pictures(row: Row) -> tuple[Picture, ...]:
    there = [row.has(f"image_{i}") for i in range(1, 8)]
    count = sum(there)
    if not all(there[:count]):
        raise row.error(f"image_{there.index(False) + 1} is missing, but a later one is there")
    return tuple(row.picture(f"image_{i}") for i in range(1, count + 1))


TASK = Task(
    "mmmu", rows.reader(_rows, _item), "multiple_choice:mmmu", ("validation", "dev", "test"), by=("discipline", "subject"),
    max_new_tokens=24, parser="text", also=("multiple_choice:robust",), about="college exams with several pictures",
    layout="{Subject}/{split}-*.parquet, or data/{split}-*.parquet",
    download="MMMU from https://huggingface.co/datasets/MMMU/MMMU",
    sizes={"validation": 900, "dev": 150, "test": 10500},
)  # fmt: skip
