"""VQA v2 (Goyal et al., 2017), also v1 and OK-VQA: `v2_OpenEnded_mscoco_{subset}_questions.json` and
`v2_mscoco_{subset}_annotations.json`, with COCO's pictures as `{subset}/COCO_{subset}_{image_id:012}.jpg`.

The files may lie in SRC or in a folder one below (`questions/`, `annotations/`); pictures are looked for below `--images`
(default: SRC), also in `images/`. Each subset (`train2014`, `val2014`) becomes a set of shards; questions without annotations
(`test2015`) have nothing to learn and are not read.

Ten people answered each question. `--answers common` learns what most of them said (the first of equals, as listed), `each`
makes a sample of every distinct answer; `--min-votes` leaves out answers that fewer people gave.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets.convert.common import Skips, filled, listed, root_of
from datasets.convert.json_stream import values_under
from datasets.convert.pictures import read_image
from vlm.prompt import question
from vlm.sample import Image, Sample

ANNOTATIONS = re.compile(r"((?:v2_)?)mscoco_(\w+)_annotations\.json")
FOLDERS = ("", "questions", "annotations")
ABOUT = ("question_type", "answer_type")  # kept to break figures down by


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures' folders (default: SRC)")
    parser.add_argument(
        "--answers", choices=("common", "each"), default="common", help="which become samples (default: common)"
    )
    parser.add_argument("--min-votes", type=int, default=1, metavar="N", help="leave out answers of fewer people (default: 1)")


def convert(
    src: Path, skips: Skips, *, images: str | None = None, answers: str = "common", min_votes: int = 1
) -> Iterator[Sample]:
    """Samples of all subsets that have both files. Raises `ValueError` when there is none."""
    root, found = root_of(src, images), False
    files = {path.name: path for folder in FOLDERS if src.is_dir() for path in listed(src, ".json", skips, folder)}
    for name, path in sorted(files.items()):
        match = ANNOTATIONS.fullmatch(name)
        asked = files.get(f"{match[1]}OpenEnded_mscoco_{match[2]}_questions.json") if match else None
        if match and asked:
            found = True
            yield from _subset(root, asked, path, match[2], answers == "each", min_votes, skips)
    if not found:
        names = "v2_OpenEnded_mscoco_SUBSET_questions.json and v2_mscoco_SUBSET_annotations.json"
        raise ValueError(f"{src} is not in VQA's layout: no {names}")


def _subset(
    root: Path, asked: Path, annotated: Path, subset: str, each: bool, min_votes: int, skips: Skips
) -> Iterator[Sample]:
    questions = dict(_questions(asked, skips))
    for number, row in enumerate(values_under(annotated, "annotations"), 1):
        where = f"{annotated.name}:{number}"
        found = questions.pop(key, None) if isinstance(row, dict) and type(key := row.get("question_id")) is int else None
        if found is None:
            skips.add("annotation without a question", where)
            continue
        text, image = found
        votes = Counter(_answers(row))
        ranked = [answer for answer, count in votes.most_common() if count >= min_votes]
        if not ranked:
            skips.add("no answer with enough votes" if votes else "no answer", where)
            continue
        name = f"COCO_{subset}_{image:012}.jpg"
        data = read_image(root, name, skips, folders=(subset, f"images/{subset}", "images", ""))
        meta = {"image": name, "answers": votes} | {field: row[field] for field in ABOUT if isinstance(row.get(field), str)}
        if data is None:
            continue
        for place, answer in enumerate(ranked if each else ranked[:1]):
            sample = question([Image(data)], text, answer=answer, key=f"{key}#{place}" if each else str(key))
            yield replace(sample, source=subset, meta=meta)
    for key in questions:
        skips.add("question without an annotation", f"{asked.name}: question {key}")


def _questions(path: Path, skips: Skips) -> Iterator[tuple[int, tuple[str, int]]]:
    """(question_id, (question, image_id))."""
    for number, row in enumerate(values_under(path, "questions"), 1):
        row = row if isinstance(row, dict) else {}
        key, text, image = row.get("question_id"), filled(row.get("question")), row.get("image_id")
        if text and type(key) is int and type(image) is int and 0 <= image < 10**12:
            yield key, (text, image)
        else:
            skips.add("no question or no image_id", f"{path.name}:{number}")


def _answers(row: dict) -> list[str]:
    """What each person said; what most said where only that is given."""
    given = row.get("answers")
    said = [text for a in given if isinstance(a, dict) and (text := filled(a.get("answer")))] if isinstance(given, list) else []
    common = filled(row.get("multiple_choice_answer"))
    return said or ([common] if common else [])
