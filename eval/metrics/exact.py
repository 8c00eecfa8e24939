"""Exact match with any reference: `ignore_case` (default) also ignores blanks at both ends, `strict` ignores nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def ignore_case(prediction: str, references: Sequence[str], options: Mapping) -> float:
    return float(prediction.strip().lower() in {reference.strip().lower() for reference in references})


def strict(prediction: str, references: Sequence[str], options: Mapping) -> float:
    return float(prediction in references)
