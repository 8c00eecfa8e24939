"""`python -m datasets.quality contamination TRAIN EVAL --out DIR`: which evaluation samples the training shards give away.

An evaluation sample counts as seen by kind: its picture, its question, a stretch of its text (datasets/quality/overlap.py),
and, the plainest case, its picture and its question in one training sample. The summary has the shares; `seen.jsonl` has a row
for each sample that was seen, with the first places, so that a score can be given over the others as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.convert.common import Skips
from datasets.quality.evaluation_set import index_evaluation
from datasets.quality.overlap import EvalIndex, Overlap
from datasets.quality.pictures import PictureHashes, frames
from datasets.quality.stream import read
from datasets.shards import find_shards

EXAMPLES = 3  # places named for each kind
KINDS = ("picture", "question", "text", "picture and question")


@dataclass
class Finding:
    """What was found of one evaluation sample."""

    places: dict[str, list[str]] = field(default_factory=dict)  # kind → first training samples
    counts: dict[str, int] = field(default_factory=dict)  # kind → training samples
    bits: int | None = None  # between its picture and the nearest
    stretches: set[tuple[int, int]] = field(default_factory=set)  # that were found

    def add(self, kind: str, place: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= EXAMPLES:
            self.places.setdefault(kind, []).append(place)


def compare(train: Path, evaluation: Path, max_distance: int) -> tuple[dict, list[dict]]:
    """(summary, a row for each evaluation sample that was seen). Raises `ValueError` where either holds nothing."""
    skips, eval_skips, hashes = Skips(), Skips(), PictureHashes()
    paths = find_shards(train)
    index = index_evaluation(evaluation, max_distance, hashes, eval_skips)
    findings: dict[int, Finding] = {}
    trained, touched = 0, dict.fromkeys(KINDS, 0)
    for placed in read(paths, skips, "training samples"):
        trained += 1
        try:
            seen = [hashes(file) for file in frames(placed.sample)]
        except ValueError as error:
            skips.add("picture broken", f"{placed.place}: {error}")
            seen = []
        for kind in set(_note(index.overlap(placed.sample, seen), placed.place, findings)):
            touched[kind] += 1
    rows = [_row(index, number, findings[number]) for number in sorted(findings)]
    summary = {
        "train": str(train),
        "evaluation": str(evaluation),
        "picture_distance": max_distance,
        "training_samples": trained,
        "evaluation_samples": len(index),
        "seen": {kind: _share(sum(kind in f.counts for f in findings.values()), len(index)) for kind in KINDS},
        "seen_by_any": _share(len(findings), len(index)),
        "training_samples_that_touch": {kind: _share(count, trained) for kind, count in touched.items()},
        "skipped": {"train": skips.summary(), "evaluation": eval_skips.summary()},
        "examples": rows[:20],
    }
    return summary, rows


def _note(overlap: Overlap, place: str, findings: dict[int, Finding]) -> Iterator[str]:
    """Book what one training sample gives away; yields the kinds."""
    both = overlap.questions & overlap.pictures.keys()
    booked = (("picture", overlap.pictures), ("question", overlap.questions), ("text", overlap.texts), (KINDS[3], both))
    for kind, numbers in booked:
        for number in numbers:
            findings.setdefault(number, Finding()).add(kind, place)
            yield kind
    for number, bits in overlap.pictures.items():
        nearest = findings[number].bits
        findings[number].bits = bits if nearest is None else min(bits, nearest)
    for number, stretches in overlap.texts.items():
        findings[number].stretches |= stretches


def _row(index: EvalIndex, number: int, finding: Finding) -> dict:
    share = len(finding.stretches) / index.num_stretches[number] if finding.stretches else 0.0
    kinds = {kind: {"training_samples": n, "first": finding.places[kind]} for kind, n in finding.counts.items()}
    return {"sample": index.names[number], "kinds": kinds, "picture_bits": finding.bits, "text_share": round(share, 4)}


def _share(count: int, total: int) -> dict:
    return {"count": count, "share": round(count / total, 6) if total else 0.0}


def write(out: Path, summary: dict, rows: list[dict]) -> None:
    """`contamination.json` and `seen.jsonl` in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "seen.jsonl").write_text(lines, encoding="utf-8", errors="replace")
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (out / "contamination.json").write_text(text, encoding="utf-8", errors="replace")
