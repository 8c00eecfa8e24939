"""ChartQA (Masry et al., 2022), official layout: `{split}/png/`, `{split}/{split}_human.json` and `{split}_augmented.json`
with rows `imgname, query, label`.

Each question becomes a sample of the shards `{split}`. Where `{split}_rationales.json` stands beside them (the same rows with
a worked `rationale`), it becomes the shards `{split}_rationales`, apart, so that a mixture can weigh the two.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets.convert.common import LINK_OUT, Skips, folder_inside, layout_file, linked_out
from datasets.convert.pictures import read_image
from datasets.convert.rows import read_rows
from vlm.prompt import question
from vlm.sample import Image, Sample

SPLITS = ("train", "val", "test")
PARTS = ("human", "augmented", "rationales")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, help="only this split (default: all that are there)")


def convert(src: Path, skips: Skips, *, split: str | None = None) -> Iterator[Sample]:
    """Samples of all splits present. Raises `ValueError` when there is none, or not the one that was asked for."""
    files = {name: _files(src, name, skips) for name in ([split] if split else SPLITS)}
    if not any(files.values()):
        layout = f"{split or 'train, val or test'}/png/ with SPLIT_human.json, SPLIT_augmented.json beside it"
        raise ValueError(f"{src} is not in ChartQA's layout: no {layout}")
    for name, parts in files.items():
        for part, path in parts.items():
            yield from _part(path, name, part, skips)


def _files(src: Path, split: str, skips: Skips) -> dict[str, Path]:
    if not folder_inside(src, f"{split}/png"):
        if linked_out(src, f"{split}/png"):
            skips.add(LINK_OUT, f"{split}/png")
        return {}
    paths = {part: layout_file(src, f"{split}_{part}.json", skips, split) for part in PARTS}
    return {part: path for part, path in paths.items() if path}


def _part(path: Path, split: str, part: str, skips: Skips) -> Iterator[Sample]:
    source = f"{split}_rationales" if part == "rationales" else split
    for where, row in read_rows(path, skips):
        query, label, rationale = row.get("query"), row.get("label"), row.get("rationale")
        if not isinstance(query, str) or not isinstance(label, str | int | float):
            skips.add("no question or no answer", where)
            continue
        if part != "rationales":
            rationale = None
        elif not isinstance(rationale, str):
            skips.add("no rationale", where)
            continue
        data = read_image(path.parent, row.get("imgname"), skips, folders=("png",))
        if data is None:
            continue
        worked = rationale and rationale.strip()
        sample = question([Image(data)], query.strip(), answer=str(label).strip(), rationale=worked, key=where)
        yield replace(sample, source=source, meta={"image": row["imgname"], "part": part})
