"""HallusionBench (Guan et al., 2024): accuracy by question, by question over all its figures, and by figure.

The official scorer takes a GPT-4 judge's mark for each answer: 0 wrong, 1 right, 2 unclear. `judge` scores such marks (a row's
`mark`, or a prediction that is one); `yes_no` reads yes or no out of the answer instead and compares it with the reference
("yes"/"no" or "1"/"0"), neither being unclear: not the same figure. A row names its `category` (VD or VS), `subcategory`,
`set_id`, `figure_id` and `question_id`. Quirks: without a figure (VS, figure 0) "unclear" counts as right, and these rows do
not count by figure; "easy" (figure 0) and "hard" (other figures) accuracies are of question pairs, not of questions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from eval import stats
from eval.metrics.base import Figures, Metric, Row, Variant, brief, whole

KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")
TRUTH = {"yes": "yes", "no": "no", "1": "yes", "0": "no"}


def judge(prediction: str, references: Sequence[str], options: Mapping) -> dict[str, float]:
    """`{mark, correct}` from the judge's mark. Raises `ValueError` where there is none."""
    mark = str(options.get("mark", prediction.strip()))
    if mark not in ("0", "1", "2"):
        raise ValueError(
            f"judge-required: `mark` is a judge's 0, 1 or 2, not {brief(mark)}; hallusionbench:yes_no needs no judge"
        )
    return _score(int(mark), options)


def yes_no(prediction: str, references: Sequence[str], options: Mapping) -> dict[str, float]:
    """`{mark, correct}` from the one of "yes" and "no" that the answer has as a word."""
    truth = {TRUTH.get(reference.strip().lower()) for reference in references}
    if len(truth) != 1 or None in truth:
        raise ValueError(f"hallusionbench:yes_no needs a reference of yes or no (1 or 0), not {brief(list(references))}")
    said = set(re.findall(r"\w+", prediction.lower())) & {"yes", "no"}
    return _score(int(said == truth) if len(said) == 1 else 2, options)


def _score(mark: int, options: Mapping) -> dict[str, float]:
    _name(options, KEYS)
    return {"mark": mark, "correct": float(mark == 1 or (mark == 2 and _no_figure(options)))}


def _no_figure(row: Mapping) -> bool:
    return row["category"] == "VS" and str(row["figure_id"]) == "0"


def _name(row: Mapping, keys: Sequence[str]) -> tuple[str, ...]:
    missing = [key for key in KEYS if not isinstance(row.get(key), str | int)]
    if missing:
        raise ValueError(f"hallusionbench needs `{missing[0]}`: a row names its {', '.join(KEYS)}")
    return tuple(str(row[key]) for key in keys)


def figures(metric: Metric, rows: list[Row]) -> Figures:
    """aAcc, qAcc, fAcc, easy and hard of all rows, and of VD and VS alone."""
    names = [_name(row, KEYS) for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"hallusionbench question {'_'.join(twice)} occurs twice")
    parts = {category: [row for row in rows if row["category"] == category] for category in ("VD", "VS")}
    return _figures(rows, metric.variant) | {name: _figures(part, metric.variant) for name, part in parts.items() if part}


def _figures(rows: list[Row], variant: str) -> Figures:
    pair, figure = ("category", "subcategory", "set_id", "question_id"), KEYS[:4]
    easy = [row for row in rows if str(row["figure_id"]) == "0"]
    hard = [row for row in rows if str(row["figure_id"]) != "0"]
    return {
        "aAcc": _all_correct(rows, KEYS, variant),
        "qAcc": _all_correct(rows, pair, variant),
        "fAcc": _all_correct([row for row in rows if not _no_figure(row)], figure, variant),
        "easy": _all_correct(easy, pair, variant),
        "hard": _all_correct(hard, pair, variant),
    }


def _all_correct(rows: list[Row], keys: Sequence[str], variant: str) -> stats.Figure:
    """Share of the groups of rows (equal in `keys`) that are right throughout; sets of figures are independent."""
    correct: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for row in rows:
        correct[_name(row, keys)].append(row["score"]["correct"] == 1)
    return stats.share([all(group) for group in correct.values()], [name[:3] for name in correct], variant=variant)


VARIANTS = {
    "judge": Variant(judge, needs_references=False, tally=whole(figures)),
    "yes_no": Variant(yes_no, tally=whole(figures)),
}
