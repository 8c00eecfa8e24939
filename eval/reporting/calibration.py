"""Does the model know when it is right? Its probability of what it wrote, against the share of right answers.

Of short answers the probability is that of the whole text. Of long ones (rationales) it would be 0 for all, so it is that of
a token, on (geometric) average: then only the order says something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from eval import stats
from eval.reporting.verdicts import RIGHT, score_of

BINS, SMALLEST = 10, 10  # bins at most, and outputs in a bin at least
SHORT = 16  # tokens of the median output


@dataclass(frozen=True, slots=True)
class Calibration:
    """`bins`: mean probability and share right with its interval, from the least sure on, each of equally many outputs."""

    bins: list[tuple[float, stats.Figure]]
    auroc: float  # of probability for right against wrong
    error: float | None  # expected calibration error; None for probabilities of a token
    n: int

    @property
    def what(self) -> str:
        return "a token, on average" if self.error is None else "the whole answer"


def calibration(records: Sequence[Mapping]) -> Calibration | None:
    """`None` where the model tells no probabilities, or right and wrong answers are too few to say anything."""
    known = [(r, score) for r in records if r.get("logprob") is not None and (score := score_of(r)) is not None]
    if len(known) < 2 * SMALLEST:
        return None
    lengths = [max(1, len(record.get("tokens") or ()) or record.get("new_tokens", 1)) for record, _ in known]
    short = median(lengths) <= SHORT
    logs = [record["logprob"] / (1 if short else length) for (record, _), length in zip(known, lengths, strict=True)]
    sure = np.array([math.exp(min(0.0, value)) for value in logs])
    right = np.array([float(score >= RIGHT) for _, score in known])
    if len(set(right)) < 2:
        return None
    parts = np.array_split(np.argsort(sure, kind="stable"), min(BINS, len(known) // SMALLEST))
    groups = [record["image"] for record, _ in known]
    bins = [(sure[p].mean(), stats.share(right[p], [groups[i] for i in p], variant="share right")) for p in parts]
    error = sum(len(p) * abs(sure[p].mean() - right[p].mean()) for p in parts) / len(known)
    return Calibration(bins, stats.auroc(sure, right.astype(bool)), float(error) if short else None, len(known))
