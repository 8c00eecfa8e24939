"""ChartQA relaxed accuracy: a number may be off by 5 %, anything else must be the same string.

`pix2struct` reproduces google-research/pix2struct `relaxed_correctness` with its edges: a target of 0 is compared as a
string, '%' divides by 100, nothing is stripped (no blanks, commas, currency), years have no rule of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TOLERANCE = 0.05


def pix2struct(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """1.0 when any reference is met, else 0.0."""
    return float(any(_relaxed(reference, prediction) for reference in references))


def _relaxed(target: str, prediction: str) -> bool:
    p, t = _number(prediction), _number(target)
    if p is not None and t:
        return abs(p - t) / abs(t) <= TOLERANCE
    return prediction.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
