"""A task of your own: a folder with pictures and one JSONL of `image` (or `images`), `question`, `answers`.

The split is the file's name: `--split test` reads `test.jsonl`. A row may also bring `id`; `kind`, to break figures down by;
`choices` (a list, or a mapping of letters); `hint`, `context` and `rationale` (for examples that reason); `instruction`; and
`options`, an object for the metric. `user.py` says how to choose the metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.metrics.base import brief
from eval.tasks import layout, rows
from eval.tasks.base import Item, Task
from eval.tasks.rows import Row

RECORD = frozenset((
    "id", "input", "question", "references", "label", "answers", "image", "choices", "prediction", "output", "rationale",
    "score", "guessed", "error", "parser", "metric", "finish", "prompt_hash", "image_hash", "tokens", "logprob", "steps",
))  # fmt: skip
LAYOUT = "pictures and {split}.jsonl of rows `image`, `question`, `answers`"


def _rows(data: Path, split: str) -> Iterator[Row]:
    return rows.json_lines(layout.file(data, f"{split}.jsonl"), data.resolve())


def item(row: Row) -> Item:
    names = row.texts("images") if "images" in row.data else (row.text("image"),) if "image" in row.data else ()
    key = row.word("id") if row.has("id") else row.number
    answers = row.texts("answers")
    if not answers:
        raise row.error("no `answers`")
    return Item(
        key, row.text("question"), answers, tuple(map(row.file, names)), group=names[0] if names else key,
        context=row.optional("context"), hint=row.optional("hint"), rationale=row.optional("rationale"),
        instruction=row.optional("instruction"), choices=_choices(row), options=_options(row),
        tags={"kind": row.word("kind") if row.has("kind") else ""},
    )  # fmt: skip


def _options(row: Row) -> dict[str, Any]:
    options = dict(row.row("options").data) if row.has("options") else {}
    if kept := sorted(RECORD & options.keys()):
        raise row.error(f"`options` cannot have {kept[0]!r}, which a record has")
    return options


def _choices(row: Row) -> dict[str, str] | None:
    if not row.has("choices"):
        return None
    if not isinstance(row.data["choices"], dict):
        return row.choices("choices")
    given = row.row("choices")
    if not given.data or not all(len(key) == 1 for key in given.data):
        raise row.error(f"`choices` maps letters to texts, not {brief(given.data)}")
    return {key: given.word(key) for key in given.data}


TASK = Task(
    "custom", rows.reader(_rows, item), "exact_match", ("test", "val", "train"), by=("kind",), layout=LAYOUT,
    about="a folder of pictures and questions of your own",
)  # fmt: skip
