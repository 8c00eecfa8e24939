"""OpenCQA (Kantharaj et al., 2022): open questions about charts. `chart_images/` and, for each split, one of

- `{split}.json`: a list of rows `image, question, answer` and, where given, `title, context`;
- `etc/data(full_summary_article)/{split}_extended.json`, the official release: an object of image number →
  `[image, title, article, summary, question, abstractive_answer, extractive_answer]`. The abstractive answer is learnt, as in
  the paper's generative experiments; the summary is its `context`.

By default a sample is the chart and the question alone; `--context` gives text before the question (the
paper's other setups).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets.convert.common import SPLITS, Skips, filled, layout_file
from datasets.convert.json_stream import object_items
from datasets.convert.pictures import read_image
from datasets.convert.rows import read_rows
from vlm.prompt import question
from vlm.sample import Image, Sample

EXTENDED = "etc/data(full_summary_article)"
FIELDS = ("image", "title", "article", "context", "question", "answer", "extractive")
CONTEXTS = {"none": (), "title": ("title",), "summary": ("title", "context"), "article": ("title", "article")}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, help="only this split (default: all that are there)")
    parser.add_argument("--context", choices=CONTEXTS, default="none", help="text given before the question (default: none)")


def convert(src: Path, skips: Skips, *, split: str | None = None, context: str = "none") -> Iterator[Sample]:
    """Samples of all splits present. Raises `ValueError` when there is none, or not the one that was asked for."""
    files = {name: path for name in ([split] if split else SPLITS) if (path := _file(src, name, skips))}
    if not files:
        layout = f"{split or 'train, val or test'}.json, or SPLIT_extended.json, and chart_images/"
        raise ValueError(f"{src} is not in OpenCQA's layout: no {layout}")
    for name, path in files.items():
        rows = _extended(path, skips) if path.stem.endswith("_extended") else read_rows(path, skips)
        for where, row in rows:
            asked, answer = filled(row.get("question")), filled(row.get("answer"))
            if not asked or not answer:
                skips.add("no question or no answer", where)
                continue
            data = read_image(src, row.get("image"), skips, folders=("chart_images",))
            if data is not None:
                given = "\n".join(text for field in CONTEXTS[context] if (text := filled(row.get(field))))
                sample = question([Image(data)], asked, answer=answer, context=given, key=where)
                yield replace(sample, source=name, meta={"image": row["image"]})


def _file(src: Path, split: str, skips: Skips) -> Path | None:
    extended = f"{split}_extended.json"
    places = ((f"{split}.json", ""), (extended, ""), (extended, EXTENDED))
    return next(filter(None, (layout_file(src, name, skips, folder) for name, folder in places)), None)


def _extended(path: Path, skips: Skips) -> Iterator[tuple[str, dict]]:
    """The official rows, by the names of the short ones."""
    for number, row in object_items(path):
        where = f"{path.name}:{number}"
        if isinstance(row, list) and len(row) == len(FIELDS):
            yield where, dict(zip(FIELDS, row, strict=True))
        else:
            skips.add(f"row is no list of {len(FIELDS)}", where)
