"""Held-out generated charts: the task whose every answer, and every step of a rationale, has an exact gold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from datasets.charts.held_out import ChartItem, held_out_items
from datasets.charts.profile import Profile
from eval.tasks import Item, Task, digest

SEED, COUNT = 0, 2000


def items(seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight") -> list[Item]:
    """`count` questions on charts that no training sample shows."""
    return [_item(chart) for chart in held_out_items(seed, count, profile)]


def table_items(seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight") -> list[Item]:
    """The same questions with the table in words in the picture's place: what the text decoder alone can answer."""
    charts = held_out_items(seed, count, profile)
    return [replace(_item(chart), images=(), context=chart.table_text) for chart in charts]


def _item(chart: ChartItem) -> Item:
    tags = {"kind": chart.kind, "type": chart.chart_type}
    return Item(
        chart.id, chart.question, (chart.answer,), (chart.image,), group=digest(chart.image), tags=tags, table=chart.table
    )


def load(data: Path | None, split: str) -> list[Item]:
    if data is not None:
        raise ValueError(f"task charts generates its items and reads no --data, got {str(data)!r}")
    return items()


TABLES = Task("tables", load, "relaxed_accuracy:pix2struct", by=("kind", "type"), max_new_tokens=12)
TASK = Task("charts", load, "relaxed_accuracy:pix2struct", by=("kind", "type"), max_new_tokens=12)
