"""OpenCQA (Kantharaj et al., 2022): open questions about charts, answered in a few sentences. `chart_images/`, and of a split

- `{split}.json`, rows `image, question, answer`; or
- `etc/data(full_summary_article)/{split}_extended.json`, the official release: image number → `[image, title, article, summary,
  question, abstractive answer, extractive answer]`. The abstractive answer is the reference, as in the paper's experiments.

The question and the chart are all that is given (the paper's hardest setup but for its OCR text). The paper reports sacreBLEU,
ROUGE, CIDEr, BLEURT, BERTScore and content selection, several of which need models; here token F1 is the figure, with BLEU-1/4
and ROUGE-L as MM-CoT computes these beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.convert.json_stream import object_items
from eval.metrics.base import brief
from eval.tasks import layout, rows
from eval.tasks.base import Item, Task
from eval.tasks.rows import Row

EXTENDED = "etc/data(full_summary_article)"
FIELDS = ("image", "title", "article", "summary", "question", "answer", "extractive")


def _rows(data: Path, split: str) -> Iterator[Row]:
    extended = f"{split}_extended.json"
    path = layout.file(data, f"{split}.json", extended, f"{EXTENDED}/{extended}")
    pictures = layout.folder(data, "chart_images")
    return _extended(path, pictures) if path.name == extended else rows.json_list(path, pictures)


def _extended(path: Path, pictures: Path) -> Iterator[Row]:
    for key, value in object_items(path):
        row = Row(f"{path}:{key[:80]}", {}, pictures)
        if not isinstance(value, list) or len(value) != len(FIELDS):
            raise row.error(f"a row is a list of {len(FIELDS)} texts, not {brief(value)}")
        yield Row(row.place, dict(zip(FIELDS, value, strict=True)), pictures)


def _item(row: Row) -> Item:
    name = row.text("image")
    return Item(row.number, row.text("question"), (row.text("answer"),), (row.file(name),), group=name)


TASK = Task(
    "opencqa", rows.reader(_rows, _item), "token_f1:squad", ("test", "val", "train"), max_new_tokens=160, parser="text",
    also=("rationale:mmcot",), about="open questions about charts, answered in sentences",
    layout="{split}.json, or " + EXTENDED + "/{split}_extended.json, and chart_images/",
    download="OpenCQA from https://github.com/vis-nlp/OpenCQA",
    sizes={"test": 1159, "val": 1158, "train": 5407},
)  # fmt: skip
