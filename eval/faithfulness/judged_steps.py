"""Do rationales say what the table says? Each step that can be checked is checked against the exact gold."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.charts.steps import check_steps
from datasets.charts.table import Table
from eval import stats


def step_correctness(rationales: Sequence[str], tables: Sequence[Table], groups: Sequence[str]) -> dict[str, stats.Figure]:
    """`steps_correct`: share of checkable steps that agree with the table; `steps_checkable`: share that can be checked;
    `rationales_correct`: share of rationales with at least one checkable step and none that is wrong."""
    verdicts, images, whole = [], [], []
    for rationale, table, group in zip(rationales, tables, groups, strict=True):
        found = [step.correct for step in check_steps(rationale, table)]
        verdicts += found
        images += [group] * len(found)
        whole.append(float(True in found and False not in found))
    known = [(float(verdict), image) for verdict, image in zip(verdicts, images, strict=True) if verdict is not None]
    return {
        "steps_correct": stats.share([v for v, _ in known], [g for _, g in known], variant="share of checkable steps"),
        "steps_checkable": stats.share([float(v is not None) for v in verdicts], images, variant="share of steps"),
        "rationales_correct": stats.share(whole, groups, variant="share of rationales"),
    }
