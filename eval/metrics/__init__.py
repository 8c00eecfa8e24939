"""Metrics by name and variant: `METRIC:VARIANT`, the first variant registered being the default.

A metric is a function (prediction, references, options) → score of one row; its summary is the mean of the rows. What the
official scorer does is the default, with its quirks: a figure is only comparable when it is made the same way, so the
variant is stored and printed with every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.cli import nearest
from eval.metrics import exact, relaxed

RowScorer = Callable[[str, Sequence[str], Mapping], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """`score(prediction, references, options)` of one row; a score lies in 0…1."""

    name: str
    variant: str
    score: RowScorer

    @property
    def label(self) -> str:
        return f"{self.name}:{self.variant}"


METRICS: dict[str, dict[str, RowScorer]] = {
    "relaxed_accuracy": {"pix2struct": relaxed.pix2struct},
    "exact_match": {"ignore_case": exact.ignore_case, "strict": exact.strict},
}


def get(label: str) -> Metric:
    """`"relaxed_accuracy"` or `"relaxed_accuracy:pix2struct"` → Metric. Raises `ValueError` naming the nearest valid one."""
    name, colon, variant = label.partition(":")
    if name not in METRICS:
        raise nearest("metric", name, METRICS)
    variants = METRICS[name]
    variant = variant if colon else next(iter(variants))
    if variant not in variants:
        raise nearest(f"variant of {name}", variant, variants)
    return Metric(name, variant, variants[variant])
