"""POPE (Li et al., 2023): is an object in the photograph? `coco_pope_{random,popular,adversarial}.json`, lines of
`question_id, image, text, label`, also below `output/coco/` or `coco/`, with COCO's `val2014/`; or `test-*.parquet` with
`question, answer, category, image_source, image`.

The three files are the splits; `all` asks them one after the other, and the figures are given for each. Papers since
LLaVA-1.5 use an older random file of 2,910 lines: compare like with like.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import coco, layout, parquet, rows
from eval.tasks.base import SHORT, Item, Task
from eval.tasks.rows import Row

CATEGORIES = ("random", "popular", "adversarial")


def _rows(data: Path, split: str) -> Iterator[Row]:
    wanted = CATEGORIES if split == "all" else (split,)
    if packed := parquet.files(data, "test"):
        yield from (row for row in parquet.rows(packed) if row.text("category") in wanted)
        return
    names = [f"coco_pope_{category}.json" for category in wanted]
    paths = [layout.file(data, name, f"output/coco/{name}", f"coco/{name}") for name in names]
    folder = coco.pictures(data, "val2014")
    for category, path in zip(wanted, paths, strict=True):
        for row in rows.json_lines(path, folder):
            yield Row(row.place, {**row.data, "category": category}, folder)


def _item(row: Row) -> Item:
    category, picture = row.text("category"), row.picture("image")
    label = row.text(row.first("label", "answer")).strip().lower()
    if label not in ("yes", "no"):
        raise row.error(f"the label is yes or no, not {label[:80]!r}")
    group = row.optional("image_source") or picture.name
    question = row.text(row.first("text", "question"))
    key = f"{category}-{row.word('question_id')}"
    return Item(key, question, (label,), (picture,), group=group, tags={"category": category})


TASK = Task(
    "pope", rows.reader(_rows, _item), "pope:official", ("all", *CATEGORIES), max_new_tokens=8, instruction=SHORT,
    parser="raw",
    about="is an object in the photograph: hallucination by yes and no",
    layout="coco_pope_{random,popular,adversarial}.json (or output/coco/) and val2014/; or test-*.parquet",
    download="POPE from https://github.com/RUCAIBox/POPE (pictures from https://cocodataset.org) or "
    "https://huggingface.co/datasets/lmms-lab/POPE",
    sizes={"all": 9000, "random": 3000, "popular": 3000, "adversarial": 3000},
)  # fmt: skip
