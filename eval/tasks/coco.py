"""What tasks on COCO's pictures share: questions and annotations in files of their own, and where the pictures lie.

`{subset}` is `train2014`, `val2014` or `test2015`; a picture is `{subset}/COCO_{subset}_{image_id:012}.jpg`, also below
`images/` or `coco/`, in the data folder: link the folder of pictures there when they are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, rows
from eval.tasks.rows import Row

FOLDERS = ("", "questions/", "annotations/")


def pictures(data: Path, subset: str) -> Path:
    return layout.folder(data, subset, f"images/{subset}", f"coco/{subset}")


def name(subset: str, image: int) -> str:
    return f"COCO_{subset}_{image:012}.jpg"


def annotated(data: Path, subset: str, asked: str, told: str | None) -> Iterator[Row]:
    """Questions of the file `asked` with the fields of their annotations (file `told`), in the questions' order, and `image`,
    the picture's name. Files may lie in `questions/` and `annotations/`."""
    folder = pictures(data, subset)
    path = layout.file(data, *(f"{place}{asked}" for place in FOLDERS))
    questions = rows.json_under(path, "questions", folder)
    if told is None:
        yield from (Row(row.place, {**row.data, "image": name(subset, row.integer("image_id"))}, folder) for row in questions)
        return
    answers = rows.json_under(layout.file(data, *(f"{place}{told}" for place in FOLDERS)), "annotations")
    waiting: dict[int, Row] = {}
    for row in questions:
        key = row.integer("question_id")
        while key not in waiting:  # both files are in one order, as published; any other costs memory
            answer = next(answers, None)
            if answer is None:
                raise row.error(f"{told} has no annotation of question {key}, or a question before has this id")
            waiting[answer.integer("question_id")] = answer
        fields = {**waiting.pop(key).data, **row.data, "image": name(subset, row.integer("image_id"))}
        yield Row(row.place, fields, folder)
