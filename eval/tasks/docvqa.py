"""DocVQA (Mathew et al., 2021), single pages: `{split}_v1.0_withQT.json` (or `{split}_v1.0.json`, also below
`spdocvqa_qas/`) with a list `data` of rows `questionId, question, image, answers, question_types`, and pictures in
`spdocvqa_images/` or `documents/`; or `{split}-*.parquet`. A question may be of several types and counts in each. Answers of
`test` are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row


def _rows(data: Path, split: str) -> Iterator[Row]:
    name = {"val": "validation"}.get(split, split)
    if packed := parquet.files(data, name) or parquet.files(data, name, "DocVQA"):
        return parquet.rows(packed)
    names = [f"{split}_v1.0{variant}.json" for variant in ("_withQT", "")]
    path = layout.file(data, *names, *(f"spdocvqa_qas/{name}" for name in names))
    return rows.json_under(path, "data", layout.folder(data, "spdocvqa_images", f"{split}/documents", "documents"))


def _item(row: Row) -> Item:
    name = row.data.get("image")
    picture = row.file(name.removeprefix("documents/")) if isinstance(name, str) else row.picture("image")
    page = (
        f"{row.word('ucsf_document_id')}_{row.word('ucsf_document_page_no')}" if row.has("ucsf_document_id") else picture.name
    )
    types = row.texts("question_types") if row.has("question_types") else ()
    answers = row.words("answers") if row.has("answers") else ()
    return Item(row.word("questionId"), row.text("question"), answers, (picture,), group=page, tags={"question_type": types})


TASK = Task(
    "docvqa", rows.reader(_rows, _item), "anls:rrc", ("val", "train", "test"), by=("question_type",), max_new_tokens=32,
    instruction=SHORT, about="questions about scanned pages",
    layout="{split}_v1.0_withQT.json (or spdocvqa_qas/) and spdocvqa_images/ (or documents/); or DocVQA/{split}-*.parquet",
    download="DocVQA from https://rrc.cvc.uab.es/?ch=17 or https://huggingface.co/datasets/lmms-lab/DocVQA",
    sizes={"val": 5349, "train": 39463, "test": 5188},
)  # fmt: skip
