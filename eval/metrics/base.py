"""What a metric is made of, and the figures that most metrics share.

A metric's module exposes `VARIANTS: dict[str, Variant]`, the default first; `eval/metrics/__init__.py` names the module once.

    def official(prediction: str, references: Sequence[str], options: Mapping) -> float: ...

    VARIANTS = {"official": Variant(official)}                           # a number for each row; the summary is its mean
    VARIANTS = {"mmmu": Variant(parse, parses=True)}                     # the parsed answer, None = does not parse
    VARIANTS = {"rms": Variant(several)}                                 # a mapping of numbers; each one's mean by its name
    VARIANTS = {"cider": Variant(score_corpus=cider)}                    # all rows at once → a score for each
    VARIANTS = {"judge": Variant(parse, parses=True, tally=whole(sums))} # a summary of its own, from all scored rows

A row is a mapping: `prediction`, `references`, `score` once it is scored, and every option of the metric by its name; what
a scorer gets as `options` is the whole row. A scorer takes any text without an exception, and raises `ValueError` only for
an option that cannot be used. A summary reads rows one at a time and keeps what it needs (a `Tally`), so a million rows fit;
`whole` keeps them all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval import stats

REFERENCE_KEYS = ("references", "label", "answers")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Row = Mapping[str, Any]
Score = float | str | None | dict
Figures = dict[str, Any]  # name → stats.Figure, or a mapping of such


class Tally(Protocol):
    """Sums up scored rows, one at a time."""

    def add(self, row: Row) -> None: ...

    def figures(self) -> Figures: ...


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to score. `score` or `score_corpus` must be there; the rest has defaults that fit most metrics."""

    score: Callable[[str, Sequence[str], Row], Score] | None = None  # one row; references are () where there are none
    score_corpus: Callable[[Sequence[Row]], list[Score]] | None = None  # where a row alone has no score
    score_list: Callable[[list[str], Any, Row], dict] | None = None  # a row that holds a corpus: its prediction is a list
    parses: bool = False  # the score is the parsed answer, `None` = does not parse; no references are needed
    needs_references: bool | None = None  # default: unless it parses
    correct: Callable[[Any, Row], bool] | None = None  # is a parsed answer right? default: it is one of the references
    guesses: Callable[[Row], Sequence[str]] | None = None  # the answers to guess from; default: the letters of `choices`
    tally: Callable[[Metric], Tally] | None = None  # default: `Means`


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name and variant, as `eval.metrics.get` gives it."""

    name: str
    variant: str
    parts: Variant

    @property
    def label(self) -> str:
        """`METRIC:VARIANT`"""
        return f"{self.name}:{self.variant}"

    @property
    def score(self) -> Callable[[str, Sequence[str], Row], Score]:
        """`score(prediction, references, options)` of one row; `None` where only a corpus has a score."""
        return self.parts.score  # type: ignore[return-value]

    @property
    def score_corpus(self) -> Callable[[Sequence[Row]], list[Score]] | None:
        """`score_corpus(rows)` → a score for each, `None` where `score` does it."""
        return self.parts.score_corpus

    @property
    def parses(self) -> bool:
        """Whether a row's score is the parsed answer."""
        return self.parts.parses

    def scored(self, prediction: str | None, references: Sequence[str], options: Row) -> Score:
        """A row's score. No answer (`None`) is unparsed to a parser, 0 to others, an empty text to those of several figures.
        Raises `ValueError` for an option that the metric cannot use."""
        if prediction is not None:
            return self.score(prediction, references, options)
        if self.parses:
            return None
        empty = self.score("", references, options)
        return empty if isinstance(empty, Mapping) else 0.0

    @property
    def needs_references(self) -> bool:
        return not self.parts.parses if self.parts.needs_references is None else self.parts.needs_references

    def correct(self, score: Score, options: Row) -> bool:
        """Whether a parsed answer is right; `options` is the row with its references. An unparsed answer is wrong."""
        if score is None:
            return False
        return self.parts.correct(score, options) if self.parts.correct else score in references(options)

    def guesses(self, options: Row) -> Sequence[str]:
        """The answers that an unparsed one may be guessed from, () where the row names none."""
        if self.parts.guesses:
            return self.parts.guesses(options)
        choices = options.get("choices") or ()
        return list(choices) if isinstance(choices, Mapping) else LETTERS[: len(choices)]

    def tally(self) -> Tally:
        return self.parts.tally(self) if self.parts.tally else Means(self)

    def summarize(self, rows: Sequence[Row]) -> Figures:
        """Figures of scored rows, each with interval, n and variant."""
        tally = self.tally()
        for row in rows:
            tally.add(row)
        return tally.figures()


def references(row: Row) -> list[str]:
    """A row's references: the first of the accepted names that is not null; [] for none. Raises `ValueError` for anything
    but strings."""
    key = next((key for key in REFERENCE_KEYS if row.get(key) is not None), None)
    if key is None:
        return []
    found = row[key]
    if type(found) is str:
        return [found]
    if not isinstance(found, list | tuple) or not set(map(type, found)) <= {str}:
        raise ValueError(f"`{key}` is a string or a list of strings, not {brief(found)}")
    return list(found)


def brief(value: object) -> str:
    """A value for an error's line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


class Groups:
    """What rows depend on each other, their `image`, as one number a row; none unless every row names one."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.complete = True

    def add(self, row: Row) -> None:
        image = row.get("image")
        self.complete = self.complete and isinstance(image, str)
        self.numbers.append(hash(image) if self.complete else 0)

    def of(self, rows: np.ndarray | slice = slice(None)) -> list[int] | None:
        """The groups of some rows; `None` when rows are independent."""
        return np.array(self.numbers)[rows].tolist() if self.complete else None


class Means:
    """The mean of each number; of parsers the share of right answers, where every row has a gold one. Rows without an answer
    are counted, and wrong; rows without a score (where the scorer is undefined) are counted, and not in the mean."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.values: dict[str, array] = {}
        self.unscored: list[int] = []
        self.rows = 0
        self.gold = True
        self.groups = Groups()

    def add(self, row: Row) -> None:
        score = row["score"]
        self.groups.add(row)
        if self.metric.parses:
            self.gold = self.gold and bool(references(row))
            self._append(self.metric.name, float(self.metric.correct(score, row)) if self.gold else 0.0)
        elif isinstance(score, Mapping):
            for name, value in score.items():
                self._append(name, np.nan if value is None else value)
        else:
            self._append(self.metric.name, np.nan if score is None else score)
        if score is None or "guessed" in row or row.get("prediction", "") is None:
            self.unscored.append(self.rows)
        self.rows += 1

    def _append(self, name: str, value: float) -> None:
        values = self.values.get(name)
        if values is None:
            values = self.values[name] = array("d", [np.nan]) * self.rows
        values.extend([np.nan] * (self.rows - len(values)))
        values.append(value)

    def figures(self) -> Figures:
        variant = self.metric.variant
        known = {} if self.metric.parses and not self.gold else self.values
        found = {name: self._mean(np.array(values)) for name, values in known.items()}
        if self.unscored or self.metric.parses:
            lost = np.zeros(self.rows)
            lost[self.unscored] = 1
            found["unparsed"] = {**stats.share(lost, self.groups.of(), variant=variant), "count": len(self.unscored)}
        return found

    def _mean(self, values: np.ndarray) -> stats.Figure:
        there = np.flatnonzero(~np.isnan(values))
        if not len(there):
            return stats.figure(np.nan, None, 0, self.metric.variant)
        return stats.mean(values[there], self.groups.of(there), variant=self.metric.variant)


def whole(summarize: Callable[[Metric, list[Row]], Figures]) -> Callable[[Metric], Tally]:
    """A tally that keeps all rows for `summarize(metric, rows)`."""

    class Whole:
        def __init__(self, metric: Metric) -> None:
            self.metric = metric
            self.rows: list[Row] = []

        def add(self, row: Row) -> None:
            self.rows.append(row)

        def figures(self) -> Figures:
            return summarize(self.metric, self.rows)

    return Whole
