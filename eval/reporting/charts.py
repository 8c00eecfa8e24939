"""The chart suite's answers as arms of one report: with the picture, blanked, and rationale first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.reporting.write import read_all, write_report
from eval.summarize import summarize
from eval.tasks import Item
from eval.tasks.charts import TASK

FOLDERS = {"with the picture": "", "blanked": "blank", "rationale first": "reason"}


def report_charts(out: Path, summary: Mapping, items: Sequence[Item], model: str = "") -> Path:
    """`write_report` of what `eval.chart_suite` left under `out`; `summary` is its own."""
    records = {name: read_all(Path(out) / folder, items) for name, folder in FOLDERS.items()}
    arms = {name: summarize(TASK, rows) for name, rows in records.items()}
    beside = {name: summary[name] for name in ("chain_of_thought", "hallucination")}
    return write_report(out, records, {"task": TASK.name, "metric": TASK.metric, "arms": arms, **beside}, items, model)
