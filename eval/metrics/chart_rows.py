"""Chart → table by whole rows: DePlot's stricter companion of RMS (`chart_table:row`).

Columns are aligned by their names, rows are matched as wholes (a row's score is the product of its cells'), and both tables
are also read transposed; tables of different widths do not match at all. Where the original stops with an error (two empty
column names, two empty tables) equal is equal here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product, zip_longest

import numpy as np
from scipy.optimize import linear_sum_assignment

from eval.metrics import chart_table
from eval.metrics.base import Variant
from eval.metrics.chart_table import Rows, Scores

Table = tuple[str | None, Rows]


def row(prediction: str, references: Sequence[str], options: Mapping) -> dict[str, float]:
    """`{precision, recall, f1}` of the best of the references and readings; zeros where no widths agree."""
    found = _readings(prediction)
    scores = [
        _precision_recall_f1(target, table)
        for reference in references
        for target, table in product(_readings(reference), found)
        if _width(target) == _width(table)
    ]
    best = max(scores, key=lambda score: score[-1], default=(0.0, 0.0, 0.0))
    return dict(zip(("precision", "recall", "f1"), best, strict=True))


def _readings(text: str) -> list[Table]:
    title, rows = chart_table.parse(text)
    padded = len(rows) * max(map(len, rows), default=0)
    turned = [(title, list(zip_longest(*rows, fillvalue="")))] if padded <= chart_table.PADDED else []
    return [*turned, (title, rows)]


def _width(table: Table) -> int:
    return len(table[1][0]) if table[1] else 0


def _precision_recall_f1(target: Table, found: Table) -> Scores:
    rows, alignment = _aligned(found[1], target[1])
    wanted, got = _points(target[0], target[1][1:]), _points(found[0], rows)
    if not wanted:
        return float(not got), 1.0, float(not got)
    if not got or not alignment:
        return 1.0, 0.0, 0.0
    chart_table.check_size(len(wanted) * len(got))
    similarity = np.array([[alignment * _similarity(t, p) for p in got] for t in wanted])
    score = similarity[linear_sum_assignment(1 - similarity)].sum()
    if score == 0:
        return 0.0, 0.0, 0.0
    precision, recall = float(score / len(got)), float(score / len(wanted))
    return precision, recall, 2 * precision * recall / (precision + recall)


def _points(title: str | None, rows: Rows) -> Rows:
    return rows if title is None else [*rows, ("title", title)]


def _aligned(rows: Rows, target: Rows) -> tuple[Rows, float]:
    """Body rows with columns in the target's order, and the product of the column names' similarities (first one free)."""
    if not rows or not rows[0]:
        return [], 1.0
    chart_table.check_size(len(rows[0]) ** 2)
    similarity = np.array([[chart_table.anls(name, found) for name in target[0]] for found in rows[0]])
    mine, theirs = linear_sum_assignment(1 - similarity)
    order = mine[np.argsort(theirs)]
    body = [tuple(row[i] if i < len(row) else "" for i in order) for row in rows[1:]]
    return body, float(similarity[order[1:], np.arange(1, len(order))].prod())


def _similarity(target: tuple[str, ...], found: tuple[str, ...]) -> float:
    if len(target) != len(found):
        return 0.0
    return float(np.prod([_cell(t, p) for t, p in zip(target, found, strict=True)]))


def _cell(target: str, found: str) -> float:
    wanted, got = chart_table.number(target), chart_table.number(found)
    if target == found:
        return 1.0
    if got is not None and wanted:
        return 1 - chart_table.relative_distance(wanted, got, chart_table.NUMBER_THETA)
    return 0.0 if wanted is not None else chart_table.anls(target, found)


VARIANTS = {"row": Variant(row)}
