"""ChartQA (Masry et al., 2022): `{split}/{split}_human.json`, `{split}_augmented.json` and `{split}/png/`; or parquet files
`{split}-*.parquet`.

Rows are `imgname, query, label`; of parquet `image`, `query` and `label` with `human_or_machine` (0, 1), or `question` and
`answer` with `type`. Human and augmented questions are told apart, pooled, and the mean of both is given beside (on the full
test set they are equally many). A part that is not there is left out; its absence shows in `by_part`. Where
`{split}_rationales.json` stands beside them (rows `imgname, query, label, rationale`), examples that reason have these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import SHORT, Item, MissingError, Task
from eval.tasks.rows import Row

PARTS = ("human", "augmented")


def load(data: Path, split: str) -> Iterator[Item]:
    """All questions of a split. Raises `ValueError` saying what to download where when there is none."""
    packed = parquet.files(data, split)
    return rows.distinct(_packed(packed, split) if packed else _files(data / split, split))


def _files(folder: Path, split: str) -> Iterator[tuple[Row, Item]]:
    found = [(part, path) for part in PARTS if (path := layout.found(folder, f"{split}_{part}.json"))]
    if not found:
        raise MissingError(f"no {split}_human.json or {split}_augmented.json in {folder}")
    pictures = layout.folder(folder, "png")
    told = layout.found(folder, f"{split}_rationales.json")
    why = {(row.text("imgname"), row.text("query")): row.text("rationale") for row in rows.json_list(told)} if told else {}
    for part, path in found:
        for row in rows.json_list(path, pictures):
            name, query = row.text("imgname"), row.text("query")
            key = f"{split}-{part}-{int(row.number) - 1}"
            yield row, Item(
                key, query, (row.word("label"),), (row.file(name),), group=name, tags={"part": part},
                rationale=why.get((name, query), ""),
            )  # fmt: skip


def _packed(paths: list[Path], split: str) -> Iterator[tuple[Row, Item]]:
    for index, row in enumerate(parquet.rows(paths)):
        kind = row.word(row.first("human_or_machine", "type"))
        part = PARTS[kind.startswith(("1", "augmented"))]
        question, answers = row.text(row.first("query", "question")), row.words(row.first("label", "answer"))
        image = row.picture("image")
        yield row, Item(f"{split}-{index}", question, answers, (image,), group=image.name, tags={"part": part})


TASK = Task(
    "chartqa", load, "relaxed_accuracy:pix2struct", ("test", "val", "train"), by=("part",), mean_of="part", instruction=SHORT,
    about="questions about charts, written by people and generated from summaries",
    layout="{split}/{split}_human.json, {split}_augmented.json and {split}/png/; or {split}-*.parquet",
    download="ChartQA from https://huggingface.co/datasets/ahmed-masry/ChartQA",
    sizes={"test": 2500, "val": 1920, "train": 28299},
)  # fmt: skip
