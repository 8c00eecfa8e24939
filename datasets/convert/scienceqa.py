"""ScienceQA (Lu et al., 2022): multiple-choice questions, half of them with a picture, most with a lecture and a solution.

SRC holds `problems.json` (the official release: id → question, choices, answer, hint, image, lecture, solution, split, …), with
pictures as `{split}/{id}/image.png`, also below `images/`; or `{split}.json`, conversation rows of the same question text with
pictures as `{split}/{id}/image.png`. From either a question reads `Context: hint`, question, `A. choice`, …, and its answer is
the letter. Where `pid_splits.json` stands beside the problems, it says the split.

Questions go to the shards `{split}`. Those with lecture or solution go, with these as rationale, also to `{split}_rationales`:
apart, so that a mixture can weigh the two.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets.convert.common import SPLITS, Skips, filled, layout_file
from datasets.convert.json_stream import object_items
from datasets.convert.llava import row_sample
from datasets.convert.pictures import read_image
from datasets.convert.rows import read_rows
from vlm.prompt import question
from vlm.sample import Image, Sample

ABOUT = ("subject", "topic", "category", "skill", "grade")  # kept to break figures down by


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, help="only this split (default: all that are there)")


def convert(src: Path, skips: Skips, *, split: str | None = None) -> Iterator[Sample]:
    """Samples of all splits present. Raises `ValueError` when there is none, or not the one that was asked for."""
    wanted = (split,) if split else SPLITS
    problems = layout_file(src, "problems.json", skips)
    rows = {name: path for name in wanted if (path := layout_file(src, f"{name}.json", skips))}
    if problems:
        yield from _problems(src, problems, wanted, skips)
    elif rows:
        for name, path in rows.items():
            for where, row in read_rows(path, skips):
                if sample := row_sample(row, where, src, skips, folders=(name,), source=name):
                    yield sample
    else:
        raise ValueError(f"{src} is not in ScienceQA's layout: no problems.json and no {split or 'train, val or test'}.json")


def _problems(src: Path, path: Path, wanted: tuple[str, ...], skips: Skips) -> Iterator[Sample]:
    chosen = _splits(src, skips)
    for number, row in object_items(path):
        split = chosen.get(number) if chosen else row.get("split") if isinstance(row, dict) else None
        if split not in SPLITS or not isinstance(row, dict):
            skips.add("no split" if isinstance(row, dict) else "row is no object", f"{path.name}:{number}")
        elif split in wanted:
            yield from _problem(src, split, number, row, skips)


def _splits(src: Path, skips: Skips) -> dict[str, str]:
    """Id → split by `pid_splits.json`, which also lists unions (`trainval`) and parts (`minival`) of the three."""
    path = layout_file(src, "pid_splits.json", skips)
    lists = {name: ids for name, ids in object_items(path) if isinstance(ids, list)} if path else {}
    return {str(number): split for split in SPLITS for number in lists.get(split, ())}


def _problem(src: Path, split: str, number: str, row: dict, skips: Skips) -> Iterator[Sample]:
    where = f"problems.json:{number}"
    text, answer = _question(row), row.get("answer")
    if text is None or type(answer) is not int or not 0 <= answer < len(row["choices"]):
        skips.add("no question, choices or answer", where)
        return
    media = []
    if name := row.get("image"):
        data = read_image(src, f"{number}/{name}", skips, folders=(split, f"images/{split}"))
        if data is None:
            return
        media = [Image(data)]
    letter = string.ascii_uppercase[answer]
    meta = {field: row[field] for field in ABOUT if isinstance(row.get(field), str)}
    yield replace(question(media, text, answer=letter, key=number), source=split, meta=meta)
    rationale = "\n".join(part for field in ("lecture", "solution") if (part := filled(row.get(field))))
    if rationale:
        worked = question(media, text, answer=letter, rationale=rationale, key=number)
        yield replace(worked, source=f"{split}_rationales", meta=meta)


def _question(row: dict) -> str | None:
    """Hint, question and lettered choices, a line each; `None` where one of the latter two is missing."""
    asked, choices, hint = filled(row.get("question")), row.get("choices"), filled(row.get("hint"))
    if not asked or not isinstance(choices, list) or not 0 < len(choices) <= len(string.ascii_uppercase):
        return None
    if not all(isinstance(choice, str) for choice in choices):
        return None
    lines = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([f"Context: {hint}"] * bool(hint) + [asked, *lines])
