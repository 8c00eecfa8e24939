"""ScienceQA's report: accuracy by subject, context and grade, the columns NAT SOC LAN TXT IMG NO G1-6 G7-12 Avg of the papers.

It joins the summary of every multiple-choice variant where each row carries `subject` ("natural science", …) and `grade`
("grade7"), `hint` (text; or `has_hint`) and `image` (or `has_image`). A question may count as both TXT and IMG; NO is neither.
"""

from __future__ import annotations

import re

import numpy as np

from eval import stats
from eval.metrics.base import Figures, Means, Metric, Row

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADE = re.compile(r"grade\s*(\d+)")


class ByColumn(Means):
    """`Means`, with a `scienceqa` report of the rows' columns."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self.correct: list[bool] = []
        self.columns: list[frozenset[str] | None] = []

    def add(self, row: Row) -> None:
        super().add(row)
        self.columns.append(_columns(row))
        self.correct.append(self.metric.correct(row["score"], row) if self.metric.parses and self.gold else row["score"] == 1)

    def figures(self) -> Figures:
        found = super().figures()
        if self.gold and self.columns and all(columns is not None for columns in self.columns):
            found["scienceqa"] = {
                name: self._share(name) for name in (*SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")
            }
        return found

    def _share(self, column: str) -> stats.Figure:
        inside = np.array([column == "Avg" or column in columns for columns in self.columns])
        return stats.share(np.array(self.correct)[inside], self.groups.of(inside), variant=self.metric.variant)


def _columns(row: Row) -> frozenset[str] | None:
    """The columns a row counts in, `None` where it is no row of ScienceQA."""
    grade = GRADE.fullmatch(str(row.get("grade", "")).strip().lower())
    subject = SUBJECTS.get(str(row.get("subject", "")).strip().lower())
    if grade is None or subject is None:
        return None
    context = {name for name, there in (("TXT", _there(row, "hint")), ("IMG", _there(row, "image"))) if there} or {"NO"}
    return frozenset({subject, "G1-6" if int(grade[1]) <= 6 else "G7-12"} | context)


def _there(row: Row, key: str) -> bool:
    return bool(row.get(f"has_{key}", row.get(key)))
