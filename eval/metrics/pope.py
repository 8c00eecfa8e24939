"""POPE: is the object in the picture? A row's score is the answer understood, "yes" or "no"; the figures are of "yes".

`official` reproduces RUCAIBox/POPE: of the text before the first period, without commas and split at single blanks, the tokens
"No", "no" or "not" make a no and all else a yes ("NO", "no!" and "" among it). `lmms_eval` takes "yes" and "no" alone (case and
blanks at the ends ignored); any other answer does not parse: it is wrong and has no part in precision and recall. Its
`yes_ratio` is that of the gold answers, as published; its undefined ratios are 0, those of `official` (a crash there) null.

The published files are three (random, popular, adversarial): rows with a `category` (or `split`) get figures by it too. A row
may also hold a whole file: `prediction` and `references` are then lists, and its score all figures.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import stats
from eval.metrics.base import Figures, Groups, Metric, Row, Variant, brief, references

YES, NO, UNPARSED = 1, 0, -1
CODES = {"yes": YES, "no": NO, None: UNPARSED}
CATEGORY_KEYS = ("category", "split")
NO_TOKENS = frozenset(("No", "no", "not"))


def official(prediction: str, references: Sequence[str], options: Mapping) -> str:
    words = prediction.split(".", 1)[0].replace(",", "").split(" ")
    return "yes" if NO_TOKENS.isdisjoint(words) else "no"


def lmms_eval(prediction: str, references: Sequence[str], options: Mapping) -> str | None:
    text = prediction.lower().strip()
    return text if text in ("yes", "no") else None


def _gold(text: str) -> int:
    answer = text.strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"a gold answer of POPE is 'yes' or 'no', not {brief(text)}")
    return CODES[answer]


def _correct(score: str, options: Row) -> bool:
    return CODES[score] == _gold(references(options)[0])


Parser = Callable[[str, Sequence[str], Mapping], str | None]


def _whole_file(parse: Parser, figures: Callable[[np.ndarray, np.ndarray], dict]) -> Callable[[list[str], Any, Row], dict]:
    def score(predictions: list[str], gold: Any, options: Row) -> dict:
        """Raises `ValueError` unless there is a label for each prediction."""
        if not isinstance(gold, list) or len(gold) != len(predictions) or not all(isinstance(label, str) for label in gold):
            raise ValueError(f"`references` is a list of {len(predictions)} labels, as `prediction` is, not {brief(gold)}")
        predicted = np.array([CODES[parse(text, (), options)] for text in predictions])
        return figures(predicted, np.array([_gold(label) for label in gold]))

    return score


def official_figures(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float | int | None]:
    """Ratios and counts of a file; `None` where the official script divides by zero."""
    counts = _counts(predicted, gold)
    tp, fp, tn, fn = counts.values()
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    ratios = {"accuracy": _ratio(tp + tn, len(gold)), "precision": precision, "recall": recall, "f1": f1}
    return {**ratios, "yes_ratio": _ratio(tp + fp, len(gold)), **counts}


def lmms_eval_figures(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float | int | None]:
    """Ratios of a file as lmms-eval gives them."""
    tp, fp, tn, fn = _counts(predicted, gold).values()
    precision, recall = _ratio(tp, tp + fp) or 0, _ratio(tp, tp + fn) or 0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    ratios = {"accuracy": _ratio(tp + tn, len(gold)), "precision": precision, "recall": recall, "f1": f1}
    return {**ratios, "yes_ratio": _ratio(int((gold == YES).sum()), len(gold))}


def _counts(predicted: np.ndarray, gold: np.ndarray) -> dict[str, int]:
    kinds = {"TP": (YES, YES), "FP": (YES, NO), "TN": (NO, NO), "FN": (NO, YES)}
    return {name: int(((predicted == p) & (gold == g)).sum()) for name, (p, g) in kinds.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class Confusion:
    """Answers and gold answers of all rows, and what they sum up to, by category where rows name one."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.parse = metric.score
        self.file_figures = FIGURES[metric.variant]
        self.predicted, self.gold, self.parsed, self.category = array("b"), array("b"), array("b"), array("q")
        self.categories: dict[str | None, int] = {}
        self.groups = Groups()

    def add(self, row: Row) -> None:
        category = next((row[key] for key in CATEGORY_KEYS if isinstance(row.get(key), str)), None)
        if isinstance(row["prediction"], list):
            answers: list[Any] = [self.parse(text, (), row) for text in row["prediction"]]
            gold = references(row)
        else:
            answers, gold = [row["score"]], references(row)[:1]
        for i, answer in enumerate(answers):
            self.predicted.append(CODES[answer])
            self.parsed.append(answer is not None and "guessed" not in row)
            self.gold.append(_gold(gold[i]) if gold else UNPARSED)
            self.category.append(self.categories.setdefault(category, len(self.categories)))
            self.groups.add(row)

    def figures(self) -> Figures:
        category = np.array(self.category)
        everything = self._figures(np.arange(len(category)))
        if set(self.categories) <= {None}:
            return everything
        named = {name: np.flatnonzero(category == i) for name, i in self.categories.items() if name is not None}
        by = {name: self._figures(rows) for name, rows in sorted(named.items())}
        return {**everything, "by_category": by}

    def _figures(self, rows: np.ndarray) -> Figures:
        """Values as the scorer computes them; each is a share of some rows, which gives the interval."""
        predicted, gold, lost = np.array(self.predicted)[rows], np.array(self.gold)[rows], np.array(self.parsed)[rows] == 0
        groups = np.array(self.groups.of(rows) or rows)
        all_rows, right = np.arange(len(rows)), predicted == gold
        samples = {"yes_ratio": (predicted == YES, all_rows), "unparsed": (lost, all_rows)}
        values: dict[str, float | int | None] = {}
        if (gold != UNPARSED).all():
            values = self.file_figures(predicted, gold)
            samples = {name: (right, rows) for name, rows in _counted_rows(predicted, gold).items()} | samples
            if self.metric.variant == "lmms_eval":
                samples["yes_ratio"] = (gold == YES, all_rows)
        found = {name: stats.share(v[r], groups[r].tolist(), variant=self.metric.variant) for name, (v, r) in samples.items()}
        found = {name: {**figure, "value": values.get(name, figure["value"])} for name, figure in found.items()}
        return {**found, "unparsed": {**found["unparsed"], "count": int(lost.sum())}}


def _counted_rows(predicted: np.ndarray, gold: np.ndarray) -> dict[str, np.ndarray]:
    """The rows whose share of right ones is each figure; F1 is 2 TP of 2 TP + FP + FN."""
    parsed, right = predicted != UNPARSED, predicted == gold
    yes, positive = predicted == YES, gold == YES
    hits, errors = np.flatnonzero(yes & positive), np.flatnonzero(parsed & ~right)
    found = {"accuracy": np.arange(len(gold)), "precision": np.flatnonzero(yes), "recall": np.flatnonzero(positive & parsed)}
    return {**found, "f1": np.concatenate([hits, hits, errors])}


FIGURES = {"official": official_figures, "lmms_eval": lmms_eval_figures}


def _variant(name: str, parse: Parser) -> Variant:
    return Variant(
        parse,
        score_list=_whole_file(parse, FIGURES[name]),
        parses=True,
        correct=_correct,
        guesses=lambda options: ("yes", "no"),
        tally=Confusion,
    )


VARIANTS = {"official": _variant("official", official), "lmms_eval": _variant("lmms_eval", lmms_eval)}
