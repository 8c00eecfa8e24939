"""`python -m eval.score METRIC[:VARIANT] CASES.jsonl`: score saved predictions; no model is needed.

In: one JSON object a line with `prediction` (a string, null = no answer; or a list, where a row holds a whole file's answers)
and `references` (string, list of strings, or null where a parser needs none; `label` and `answers` are accepted names),
`choices` (list, or letter → text), and any option of the metric by name. A row's `image`, where every row has one, groups the
interval. Out: the same rows plus `score`, to --out or standard output; the summary to FILE.summary.json and standard error.

An answer that does not parse has the score null and is counted; only `--unparsed random:SEED` guesses it, and then the row says
`guessed`. A row of `eval.run` that could not be asked (`error`) is left out and counted. Rows are read, scored and written one
at a time, unless the metric is one of a corpus.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

from eval import cases, cli, metrics, stats
from eval.metrics.base import Figures, Row, Score, Tally, brief

MOST_VALUES = 1000  # of --by
Guess = Callable[[int, Row], str | None]
Read = Callable[[bytes], cases.Case]


def score_case(metric: metrics.Metric, case: cases.Case) -> Score:
    """A row's score, which may hold a whole file. Raises `ValueError` for an option that the metric cannot use."""
    prediction = case.row["prediction"]
    if isinstance(prediction, list) and metric.parts.score_list:
        return metric.parts.score_list(prediction, case.references, case.row)
    return metric.scored(prediction, case.references, case.row)


class Summary:
    """Figures of all rows, and of those of each value of `by`."""

    def __init__(self, metric: metrics.Metric, by: str | None) -> None:
        self.metric, self.by = metric, by
        self.whole = metric.tally()
        self.parts: dict[str, Tally] = {}
        self.rows = self.guessed = self.errors = 0

    def add(self, row: Row) -> None:
        """Raises `ValueError` for a row without the key of `by`."""
        self.rows += 1
        self.guessed += "guessed" in row
        self.whole.add(row)
        if self.by is not None:
            self._part(self.by, row).add(row)

    def _part(self, by: str, row: Row) -> Tally:
        value = row.get(by)
        if not isinstance(value, str | int):
            raise ValueError(f"--by {by}: its value is a string or an integer, not {brief(value)}")
        if str(value) not in self.parts and len(self.parts) == MOST_VALUES:
            raise ValueError(f"--by {by}: more than {MOST_VALUES} values")
        return self.parts.setdefault(str(value), self.metric.tally())

    def figures(self, guess: str | None) -> Figures:
        found = self.whole.figures()
        if guess is not None:
            share = stats.figure(self.guessed / self.rows, None, self.rows, guess)
            found["guessed"] = {**share, "count": self.guessed}
        if self.errors:
            found["errors"] = {"count": self.errors}
        if self.by is not None:
            found[f"by_{self.by}"] = {value: part.figures() for value, part in sorted(self.parts.items())}
        return found


def guesser(metric: metrics.Metric, text: str | None) -> Guess:
    """What `--unparsed` asks for: a guess by row number and row. Raises `ValueError` for anything but `random:SEED`."""
    if text is None:
        return lambda number, row: None
    method, _, seed = text.partition(":")
    if method != "random" or not seed.isdecimal():
        raise ValueError(f"--unparsed {brief(text)}: it is random:SEED, as in random:0")
    if not metric.parses:
        raise ValueError(f"--unparsed: {metric.label} does not parse answers")

    def guess(number: int, row: Row) -> str | None:
        among = metric.guesses(row)
        return random.Random(f"{int(seed)}:{number}").choice(among) if among else None

    return guess


def scored_lines(
    metric: metrics.Metric, read: Read, file: BinaryIO, name: str, summary: Summary, guess: Guess, done: Callable[[int], None]
) -> Iterator[str]:
    """Each row with its score, as a line; `summary` has seen it. Raises `ValueError` with `name` and the line's number."""
    for number, line in cases.lines(file):
        try:
            case = read(line)
            if case.failed:
                summary.errors += 1
                yield case.text + "\n"
                continue
            scored = _finish(case, score_case(metric, case), summary, guess)
        except ValueError as error:
            raise ValueError(f"{name}:{number}: {error}") from None
        done(len(line))
        yield scored


def scored_corpus(
    metric: metrics.Metric, read: Read, file: BinaryIO, name: str, summary: Summary, guess: Guess, done: Callable[[int], None]
) -> Iterator[str]:
    """`scored_lines` of a metric that needs all rows at once."""
    assert metric.score_corpus is not None
    rows = []
    for number, line in cases.lines(file):
        try:
            case = read(line)
            if case.failed:
                summary.errors += 1
                yield case.text + "\n"
                continue
            rows.append(case)
        except ValueError as error:
            raise ValueError(f"{name}:{number}: {error}") from None
        done(len(line))
    scores = metric.score_corpus([case.row for case in rows]) if rows else []
    yield from (_finish(case, score, summary, guess) for case, score in zip(rows, scores, strict=True))


def _finish(case: cases.Case, score: Score, summary: Summary, guess: Guess) -> str:
    guessed = guess(summary.rows + 1, case.row) if score is None else None
    line = case.scored(score if guessed is None else guessed, guessed is not None)
    case.row["score"] = score if guessed is None else guessed
    case.row.pop("guessed", None)
    if guessed is not None:
        case.row["guessed"] = True
    summary.add(case.row)
    return line


def _source(name: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


@contextmanager
def _whole(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its place only when all of it is written: it may be the one being read."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _arguments() -> argparse.Namespace:
    names = "\n".join(f"  {name}: {', '.join(variants)}" for name, variants in metrics.METRICS.items())
    parser = cli.parser(
        "eval.score",
        f"Score saved predictions; no model is needed. Metrics and their variants, the default first:\n{names}",
        "python -m eval.score relaxed_accuracy:pix2struct predictions.jsonl --by split --out scored.jsonl\n"
        "  python -m eval.score multiple_choice:mmmu answers.jsonl --unparsed random:42 > scored.jsonl",
    )
    parser.add_argument("metric", metavar="METRIC[:VARIANT]", help="one of the above, as in anls or anls:pix2struct")
    parser.add_argument("cases", metavar="CASES.jsonl", help="rows to score; - reads standard input")
    parser.add_argument("--out", type=Path, metavar="FILE", help="scored rows (default: standard output)")
    parser.add_argument("--by", metavar="KEY", help="figures also for each value of this key of the rows")
    parser.add_argument("--unparsed", metavar="random:SEED", help="guess answers that do not parse, from the row's choices")
    objects = 'for chair: JSON, from each picture\'s id (a row\'s `image`) to the objects in it, {"139": ["chair", "tv"]}'
    parser.add_argument("--gold-objects", type=Path, metavar="FILE", help=objects)
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    metric = metrics.get(args.metric)
    summary, guess = Summary(metric, args.by), guesser(metric, args.unparsed)
    score = scored_corpus if metric.score_corpus else scored_lines
    gold = None if args.gold_objects is None else cases.gold_objects(args.gold_objects)
    read = partial(cases.case, metric=metric, gold=gold)
    size = Path(args.cases).stat().st_size if args.cases != "-" else 0
    with _source(args.cases) as file, _whole(args.out) as out, cli.Progress(f"{args.cases} (bytes)", size) as progress:
        for line in score(metric, read, file, args.cases, summary, guess, progress.update if size else lambda count: None):
            out.write(line.encode())
        if not summary.rows:
            raise ValueError(f"{args.cases} holds no rows")
        figures = summary.figures(args.unparsed)
    text = json.dumps(figures, indent=2)
    print(text, file=sys.stderr)
    if args.out:
        Path(f"{args.out}.summary.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
