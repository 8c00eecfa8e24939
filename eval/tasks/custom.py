"""A task of your own: a folder with pictures and one JSONL of `image` (or `images`), `question`, `answers`.

The split is the file's name: `--split test` reads `test.jsonl`. A row may bring an `id` and a `kind` to break figures down by.
"""

from __future__ import annotations

import json
from pathlib import Path

from eval.tasks import Item, Task

LAYOUT = "a folder with pictures and {split}.jsonl of rows `image`, `question`, `answers`"


def load(data: Path | None, split: str) -> list[Item]:
    """Raises `ValueError` naming file and line for a row that does not fit, or a path that leaves the folder."""
    if data is None:
        raise ValueError(f"task custom needs --data: {LAYOUT.format(split=split)}")
    path = Path(data) / f"{split}.jsonl"
    if not path.is_file():
        raise ValueError(f"no {path}: --data is {LAYOUT.format(split=split)}")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [_item(line, Path(data), f"{path}:{number}") for number, line in lines if line.strip()]


def _item(line: str, folder: Path, place: str) -> Item:
    try:
        row = json.loads(line)
        images = row["images"] if "images" in row else [row["image"]] if "image" in row else []
        answers = [row["answers"]] if isinstance(row["answers"], str) else row["answers"]
        question, texts = row["question"], (*images, *answers)
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{place}: not a row of `image`, `question`, `answers`: {error!r}") from None
    if not answers or not all(isinstance(text, str) for text in (question, *texts)):
        raise ValueError(f"{place}: `question`, `image` and `answers` are strings")
    paths = tuple((folder / name).resolve() for name in images)
    outside = [str(p) for p in paths if not p.is_relative_to(folder.resolve())]
    if outside:
        raise ValueError(f"{place}: {outside[0]} lies outside {folder}")
    key = str(row.get("id", place.rsplit(":", 1)[1]))
    return Item(
        key, question, tuple(answers), paths, group=images[0] if images else key, tags={"kind": str(row.get("kind", ""))}
    )


TASK = Task("custom", load, "exact_match", ("test", "val", "train"), by=("kind",))
