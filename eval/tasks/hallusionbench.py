"""HallusionBench (Guan et al., 2024): questions about figures and edited figures. `HallusionBench.json`, rows `category,
subcategory, set_id, figure_id, question_id, visual_input, question, gt_answer, filename`, and the pictures in
`hallusion_bench/`; or `image-*.parquet` and `non_image-*.parquet`.

Questions with `visual_input` "0" have no figure. The official figures come from a judge's marks; here the answer's yes or no
is compared (`yes_no`), which is another figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, parquet, rows
from eval.tasks.base import YES_NO, Item, Picture, Task
from eval.tasks.rows import Row

KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")
TRUTH = {"1": "yes", "0": "no"}


def _rows(data: Path, split: str) -> Iterator[Row]:
    packed = [*parquet.files(data, "image"), *parquet.files(data, "non_image")]
    if packed:
        return parquet.rows(packed)
    path = layout.file(data, "HallusionBench.json")
    return rows.json_list(path, layout.folder(data, "hallusion_bench"))


def _item(row: Row) -> Item:
    names = {key: row.word(key) for key in KEYS}
    truth = TRUTH.get(row.word("gt_answer"))
    if truth is None:
        raise row.error(f"`gt_answer` is 1 or 0, not {row.word('gt_answer')[:80]!r}")
    images: tuple[Picture, ...] = ()
    if row.has("image"):
        images = (row.picture("image"),)
    elif row.word("visual_input") != "0" and row.pictures:
        images = (row.file(row.text("filename").removeprefix("./").removeprefix("hallusion_bench/")),)
    key = "_".join(names.values())
    tags = {"subcategory": names["subcategory"]}
    return Item(key, row.text("question"), (truth,), images, group="_".join([*names.values()][:3]), tags=tags, options=names)


TASK = Task(
    "hallusionbench", rows.reader(_rows, _item), "hallusionbench:yes_no", ("all",), by=("subcategory",), instruction=YES_NO,
    parser="raw", about="figures, edited figures and illusions, by yes and no",
    layout="HallusionBench.json and hallusion_bench/; or image-*.parquet and non_image-*.parquet",
    download="HallusionBench from https://github.com/tianyi-lab/HallusionBench or "
    "https://huggingface.co/datasets/lmms-lab/HallusionBench",
    sizes={"all": 1129},
)  # fmt: skip
