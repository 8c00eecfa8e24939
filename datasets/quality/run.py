"""A filter run over shards: read, judge, write, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from datasets.convert.__main__ import write
from datasets.convert.common import Skips
from datasets.quality import classifier as unwanted
from datasets.quality.evaluation_set import index_evaluation
from datasets.quality.filter import Filter, Settings
from datasets.quality.pictures import PictureHashes
from datasets.quality.report import Report
from datasets.quality.stream import Placed, read
from datasets.quality.wordlist import DEFAULT, WordList
from datasets.shards import find_shards
from vlm.files import write_json, write_text
from vlm.sample import Sample


def run(
    src: Path,
    dst: Path,
    settings: Settings,
    *,
    words: Path = DEFAULT,
    classifier: Path | None = None,
    against: Path | None = None,
) -> dict:
    """Filter `src` into `dst`; returns what is also in `dst/report.json`.

    Raises `ValueError` where there is nothing to read, nothing left to write, or `dst` cannot be written to without harm.
    """
    paths = find_shards(src)
    _check(paths, dst)
    hashes, skips, eval_skips = PictureHashes(), Skips(), Skips()
    listed = WordList(words)
    model = unwanted.load(classifier) if classifier else None
    evaluation = index_evaluation(against, settings.picture_distance, hashes, eval_skips) if against else None
    sieve = Filter(settings, listed, model, evaluation, hashes)
    dst.mkdir(parents=True, exist_ok=True)
    part = dst / ".dropped.jsonl.new"
    try:
        with part.open("w", encoding="utf-8", errors="replace") as dropped:
            report = Report(dropped)
            kept = _judged(read(paths, skips), sieve, report)
            shards = _write(kept, dst, report, skips)
        part.replace(dst / "dropped.jsonl")
    finally:
        part.unlink(missing_ok=True)
    index = {"samples": len(sieve.seen), "pictures": sieve.num_pictures, "bytes": sieve.index_bytes}
    chosen = asdict(settings) | {
        "words": str(words),
        "classifier": classifier and str(classifier),
        "against": against and str(against),
    }
    summary = report.summary(chosen, skips, index) | {"shards": shards, "unreadable_evaluation": eval_skips.summary()}
    summary = json.loads(json.dumps(summary, ensure_ascii=False).encode("utf-8", "replace"))  # half surrogates are no text
    write_json(dst / "report.json", summary)
    write_text(dst / "report.html", report.html(summary))
    return summary


def _judged(samples: Iterator[Placed], sieve: Filter, report: Report) -> Iterator[Sample]:
    for placed in samples:
        verdict = sieve.judge(placed)
        report.add(placed, verdict)
        if not verdict.reason:
            yield placed.sample


def _write(kept: Iterator[Sample], dst: Path, report: Report, skips: Skips) -> dict:
    try:
        return write(kept, dst, skips)
    except ValueError as error:
        if report.kept or not (report.dropped or skips.counts):
            raise
        if not report.dropped:
            raise ValueError(f"{error}: {'; '.join(skips.lines())}") from error
        (reason, count), *_ = report.dropped.most_common(1)
        raise ValueError(
            f"no sample would be kept: {report.dropped.total():,} dropped, {count:,} of them for {reason!r}"
        ) from error


def _check(paths: list[Path], dst: Path) -> None:
    """Raises `ValueError` when `dst` is a file or the folder of a shard that is read."""
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"DST {dst} is a file")
    for path in paths:
        if path.resolve().is_relative_to(dst.resolve()):
            raise ValueError(f"DST {dst} holds the shard {path}, which is read: choose another folder")
