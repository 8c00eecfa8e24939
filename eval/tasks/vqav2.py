"""VQA v2 (Goyal et al., 2017): `v2_OpenEnded_mscoco_{subset}_questions.json` with `v2_mscoco_{subset}_annotations.json` and
COCO's pictures (`coco.py`); or `{split}-*.parquet` with `question, image, answers, question_type, answer_type`.

The references are the ten people's answers as they are: the official scorer treats ten equal ones in its own way. Answers of
`testdev` are not public (`--predict-only`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import coco, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row

SUBSETS = {"val": "val2014", "train": "train2014", "testdev": "test-dev2015"}


def _rows(data: Path, split: str) -> Iterator[Row]:
    if packed := parquet.files(data, {"val": "validation"}.get(split, split)):
        return parquet.rows(packed)
    subset = SUBSETS[split]
    told = None if split == "testdev" else f"v2_mscoco_{subset}_annotations.json"
    folder = subset.replace("-dev", "")  # pictures of test-dev are some of test's
    return coco.annotated(data, folder, f"v2_OpenEnded_mscoco_{subset}_questions.json", told)


def item(row: Row) -> Item:
    """A question with several people's answers."""
    return Item(
        row.word("question_id"), row.text("question"), row.answers() if row.has("answers") else (), (row.picture("image"),),
        group=row.word("image_id"),
        tags={name: row.optional(name) for name in ("answer_type", "question_type")},
    )  # fmt: skip


TASK = Task(
    "vqav2", rows.reader(_rows, item), "vqa_accuracy:official", ("val", "train", "testdev"),
    by=("answer_type", "question_type"), instruction=SHORT, about="questions about photographs, ten answers each",
    layout="v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and val2014/; or {split}-*.parquet",
    download="VQA v2 from https://visualqa.org/download.html or https://huggingface.co/datasets/lmms-lab/VQAv2",
    sizes={"val": 214354, "train": 443757, "testdev": 107394},
)  # fmt: skip
