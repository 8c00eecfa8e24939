"""Metrics by name and variant: `METRIC:VARIANT`, the first variant of a module being the default.

What the official scorer does is the default, with its quirks: a figure is only comparable when it is made the same way, so the
variant is stored and printed with every figure. `base.py` says what a module of this folder has to expose.
"""

from __future__ import annotations

from eval.cli import nearest
from eval.metrics import (
    amber,
    anls,
    caption,
    chair,
    chart_rows,
    chart_table,
    exact,
    hallusionbench,
    mme,
    multiple_choice,
    pope,
    rationale,
    relaxed,
    token_f1,
    vqa,
)
from eval.metrics.base import Metric, Variant, references

__all__ = ["METRICS", "Metric", "Variant", "get", "references"]

METRICS: dict[str, dict[str, Variant]] = {
    "relaxed_accuracy": relaxed.VARIANTS,
    "vqa_accuracy": vqa.VARIANTS,
    "anls": anls.VARIANTS,
    "pope": pope.VARIANTS,
    "exact_match": exact.VARIANTS,
    "token_f1": token_f1.VARIANTS,
    "multiple_choice": multiple_choice.VARIANTS,
    "chart_table": chart_table.VARIANTS | chart_rows.VARIANTS,
    "chair": chair.VARIANTS,
    "hallusionbench": hallusionbench.VARIANTS,
    "mme": mme.VARIANTS,
    "amber": amber.VARIANTS,
    "caption": caption.VARIANTS,
    "rationale": rationale.VARIANTS,
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
