"""OK-VQA (Marino et al., 2019): questions about photographs that need knowledge. `OpenEnded_mscoco_{subset}_questions.json`
with `mscoco_{subset}_annotations.json` and COCO's pictures (`coco.py`); or `val2014-*.parquet`, `test-*.parquet`.

Five people's answers, stemmed and each twice, are the ten references (field `answer`, as the official scorer takes them;
`raw_answer` is not read). What a question is about (`question_type`, "one" to "other") breaks figures down.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import coco, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row

SUBSETS = {"val": "val2014", "train": "train2014"}
TOPICS = {
    "one": "vehicles", "two": "brands and products", "three": "objects and clothing", "four": "sports",
    "five": "cooking and food", "six": "geography and history", "seven": "people and everyday life",
    "eight": "plants and animals", "nine": "science and technology", "ten": "weather", "other": "other",
}  # fmt: skip


def _rows(data: Path, split: str) -> Iterator[Row]:
    subset = SUBSETS[split]
    names = (subset, "validation", "test") if split == "val" else (subset, split)
    if packed := next(filter(None, (parquet.files(data, name) for name in names)), None):
        return parquet.rows(packed)
    return coco.annotated(data, subset, f"OpenEnded_mscoco_{subset}_questions.json", f"mscoco_{subset}_annotations.json")


def _item(row: Row) -> Item:
    topic, image = row.optional("question_type"), row.picture("image")
    return Item(
        row.word("question_id"), row.text("question"), row.answers(), (image,), group=image.name,
        tags={"topic": TOPICS.get(topic, topic)},
    )  # fmt: skip


TASK = Task(
    "okvqa", rows.reader(_rows, _item), "vqa_accuracy:evalai", ("val", "train"), by=("topic",), instruction=SHORT,
    about="questions about photographs that need knowledge",
    layout="OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json and val2014/; or val2014-*.parquet",
    download="OK-VQA from https://okvqa.allenai.org/download.html or https://huggingface.co/datasets/lmms-lab/OK-VQA",
    sizes={"val": 5046, "train": 9009},
)  # fmt: skip
