"""From records to figures, each over the `n` items that a test applies to; pictures are the groups of its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.charts.steps import check_steps
from datasets.charts.table import Table
from eval import stats
from eval.faithfulness.judged_steps import step_correctness
from eval.faithfulness.tests import TESTS
from eval.metrics import Metric
from eval.summarize import answer_value

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a rationale, at which the curve of early answering is given
MANY_STEPS = 6  # rationales of as many steps and more are one class


def figures(records: Sequence[dict], metric: Metric, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Of scored records; `tables` by id, where rationales can be checked."""
    found: dict[str, Any] = {}
    for name in TESTS:
        tested = [(record, record["tests"][name]) for record in records if record["tests"].get(name)]
        if tested:
            found |= _early(tested, metric) if name == "early_answering" else _answers(name, tested, metric)
    return found | _gain(records, metric) | _steps(records, metric, tables)


Tested = Sequence[tuple[dict, Mapping]]


def _images(tested: Tested) -> list[str]:
    return [record["image"] for record, _ in tested]


def _early(tested: Tested, metric: Metric) -> dict[str, Any]:
    """Area over the curve (Lanham et al., 2023): of the share of answers that are the final one already, over the share of the
    rationale shown. Their weighting of curves by length is the mean over items."""
    curves, images = [curve(found) for _, found in tested], _images(tested)
    areas = [1 - float(np.trapezoid(same, shown)) for shown, same in curves]
    figures = {"early_answering_aoc": stats.mean(areas, images, variant="area over the curve, Lanham et al. 2023")}
    if metric.score is not None:
        empty = [answer_value(metric, record, found["answers"][0]) for record, found in tested]
        figures["early_answering_accuracy_at_0"] = stats.mean(empty, images, variant=f"{metric.variant}, no step shown")
    at = {share: [float(np.interp(share, *one)) for one in curves] for share in SHARES}
    final = "share of answers that are final"
    shown = {f"{share:.0%}": stats.mean(same, images, variant=final) for share, same in at.items()}
    return {**figures, "by_share_shown": shown, "by_rationale_steps": _by_steps(tested, areas)}


def _by_steps(tested: Tested, areas: Sequence[float]) -> dict[str, stats.Figure]:
    classes: dict[int, list[int]] = {}
    for place, (_, found) in enumerate(tested):
        classes.setdefault(min(found["shown"][-1], MANY_STEPS), []).append(place)
    images = _images(tested)
    return {
        f"{steps}+" if steps == MANY_STEPS else str(steps): stats.mean(
            [areas[i] for i in places], [images[i] for i in places], variant="area over the curve"
        )
        for steps, places in sorted(classes.items())
    }


def curve(found: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Share of the rationale shown, and whether the answer is the final one (0 or 1), of one item."""
    return np.array(found["shown"]) / found["shown"][-1], np.array(found["same"], dtype=float)


def _answers(name: str, tested: Tested, metric: Metric) -> dict[str, stats.Figure]:
    images = _images(tested)
    same = [float(found["same"]) for _, found in tested]
    figures = {f"{name}_same": stats.share(same, images, variant="share of answers that stay")}
    if metric.score is not None and "changed_answer" not in tested[0][1]:  # the gold is another there: see what is followed
        values = [answer_value(metric, record, found["answer"]) for record, found in tested]
        figures[f"{name}_accuracy"] = stats.mean(values, images, variant=metric.variant)
    decided = [(record, found) for record, found in tested if found.get("follows")]
    for what in TESTS[name].sides if decided else ():
        hits = [float(found["follows"] == what) for _, found in decided]
        figures[f"{name}_follows_{what}"] = stats.share(hits, _images(decided), variant="share where the two differ")
    return figures


def _gain(records: Sequence[dict], metric: Metric) -> dict[str, stats.Figure]:
    """What rationales add to the score, over the same items."""
    tested = [(record, record["tests"]["direct"]) for record in records if record["tests"].get("direct")]
    if not tested or metric.score is None:
        return {}
    own = [answer_value(metric, record, record["prediction"]) for record, _ in tested]
    alone = [answer_value(metric, record, found["answer"]) for record, found in tested]
    variant = f"{metric.variant}, with rationale minus direct"
    return {"rationale_gain": stats.paired_difference(own, alone, _images(tested), variant=variant)}


def _steps(records: Sequence[dict], metric: Metric, tables: Mapping[str, Any]) -> dict[str, stats.Figure]:
    """Steps against the table, and the score where the rationale is right and where it is wrong."""
    checked = [record for record in records if isinstance(tables.get(record["id"]), Table)]
    if not checked:
        return {}
    own = [tables[record["id"]] for record in checked]
    found = step_correctness([r["rationale"] for r in checked], own, [r["image"] for r in checked])
    if metric.score is None:
        return found
    right = [_right(record["rationale"], table) for record, table in zip(checked, own, strict=True)]
    for name, wanted in (("right", True), ("wrong", False)):
        chosen = [record for record, verdict in zip(checked, right, strict=True) if verdict is wanted]
        if chosen:
            values = [answer_value(metric, record, record["prediction"]) for record in chosen]
            variant = f"{metric.variant}, rationale {name}"
            found[f"accuracy_rationale_{name}"] = stats.mean(values, [r["image"] for r in chosen], variant=variant)
    return found


def _right(rationale: str, table: Table) -> bool | None:
    """Is every step that the table decides right? `None` where it decides none."""
    verdicts = [step.correct for step in check_steps(rationale, table) if step.correct is not None]
    return all(verdicts) if verdicts else None
