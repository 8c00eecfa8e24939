"""TextVQA (Singh et al., 2019): questions about text in photographs. `TextVQA_0.5.1_{split}.json` with a list `data` of rows
`question_id, question, image_id, answers`, and pictures as `train_images/{image_id}.jpg` (of train and val) or
`test_images/`; or `{split}-*.parquet`. The OCR tokens that come with it are not given. Answers of `test` are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row


def _rows(data: Path, split: str) -> Iterator[Row]:
    if packed := parquet.files(data, {"val": "validation"}.get(split, split)):
        return parquet.rows(packed)
    folder = "test_images" if split == "test" else "train_images"
    path = layout.file(data, f"TextVQA_0.5.1_{split}.json")
    return rows.json_under(path, "data", layout.folder(data, folder, f"train_val_images/{folder}", f"images/{folder}"))


def _item(row: Row) -> Item:
    image = row.word("image_id")
    picture = row.picture("image") if row.has("image") else row.file(f"{image}.jpg")
    given = row.answers() if row.has("answers") else ()
    answers = given if any(given) else ()  # those of `test` are empty
    return Item(row.word("question_id"), row.text("question"), answers, (picture,), group=image)


TASK = Task(
    "textvqa", rows.reader(_rows, _item), "vqa_accuracy:evalai", ("val", "train", "test"), instruction=SHORT,
    about="questions about text in photographs",
    layout="TextVQA_0.5.1_{split}.json and train_images/; or {split}-*.parquet",
    download="TextVQA from https://textvqa.org/dataset or https://huggingface.co/datasets/lmms-lab/textvqa",
    sizes={"val": 5000, "train": 34602, "test": 5734},
)  # fmt: skip
