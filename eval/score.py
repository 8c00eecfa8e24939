"""`python -m eval.score METRIC[:VARIANT] CASES.jsonl`: score saved predictions; no model is needed.

In: one JSON object a line with `prediction` (string) and `references` (string, list of strings; `label` and `answers` are
accepted names), and any option of the metric by name. A row's `image`, where every row has one, groups the interval.
Out: the same rows plus `score`, to --out or standard output; the summary to FILE.summary.json and standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from eval import cli, metrics, stats

REFERENCE_KEYS = ("references", "label", "answers")


def read_rows(lines: Iterable[str], name: str) -> Iterator[dict]:
    """JSONL rows. Raises `ValueError` with `name` and the line number for anything that is not a scorable row."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{name}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name}:{number}: a row is a JSON object, not {type(row).__name__}")
        if not isinstance(row.get("prediction"), str):
            raise ValueError(f"{name}:{number}: `prediction` is a string, not {row.get('prediction')!r}"[:300])
        try:
            references(row)
        except ValueError as error:
            raise ValueError(f"{name}:{number}: {error}") from None
        yield row


def references(row: dict) -> list[str]:
    """A row's references under any of the accepted names. Raises `ValueError` when there is none or it is no string."""
    key = next((key for key in REFERENCE_KEYS if key in row), None)
    if key is None:
        raise ValueError("no `references` (also accepted: `label`, `answers`)")
    found = [row[key]] if isinstance(row[key], str) else row[key]
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise ValueError(f"`{key}` is a string or a list of strings, not {row[key]!r}"[:300])
    return found


def score_rows(metric: metrics.Metric, rows: Iterable[dict]) -> Iterator[dict]:
    """Each row with its `score`."""
    for row in rows:
        yield {**row, "score": metric.score(row["prediction"], references(row), row)}


def _source(name: str) -> AbstractContextManager[TextIO]:
    return nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8", errors="surrogateescape")


@contextmanager
def _whole(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that takes its place only when all of it is written: it may be the one being read."""
    if path is None:
        yield sys.stdout
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    parser = cli.parser(
        "eval.score",
        "Score saved predictions; no model is needed.",
        "python -m eval.score relaxed_accuracy:pix2struct predictions.jsonl --out scored.jsonl",
    )
    parser.add_argument("metric", metavar="METRIC[:VARIANT]", help=f"one of: {', '.join(metrics.METRICS)}")
    parser.add_argument("cases", metavar="CASES.jsonl", help="rows to score; - reads standard input")
    parser.add_argument("--out", type=Path, metavar="FILE", help="scored rows (default: standard output)")
    args = parser.parse_args()
    metric = metrics.get(args.metric)
    scores, groups = [], []
    with _source(args.cases) as lines, _whole(args.out) as out:
        for row in score_rows(metric, read_rows(lines, args.cases)):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            scores.append(row["score"])
            groups.append(row.get("image"))
        if not scores:
            raise ValueError(f"{args.cases} holds no rows")
    grouped = all(isinstance(group, str) for group in groups)
    summary = {metric.name: stats.mean(scores, groups if grouped else None, variant=metric.variant)}
    text = json.dumps(summary, indent=2)
    print(text, file=sys.stderr)
    if args.out:
        Path(f"{args.out}.summary.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
