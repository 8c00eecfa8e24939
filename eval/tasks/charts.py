"""Held-out generated charts: the tasks whose every answer, and every step of a rationale, has an exact gold.

`charts` asks questions (broken down by kind of question, chart type and number of steps of the gold rationale), `tables` asks
them of the table in words; `charts_table.py` asks for the table itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.charts.draw import render
from datasets.charts.held_out import ChartItem, held_out_items
from datasets.charts.linear import WRITE_TABLE, linear_table
from datasets.charts.perturb import perturbation
from datasets.charts.profile import Profile
from datasets.charts.questions import Question
from datasets.charts.samples import ChartSource
from datasets.charts.spec import ChartSpec
from eval.tasks import Item, Task, digest
from vlm.image import to_png

SEED, COUNT = 0, 2000
MANY_STEPS = 7  # rationales from this many steps on are one class
BY = ("kind", "type", "steps")


def items(
    seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight", perturb: str | None = None
) -> list[Item]:
    """`count` questions on charts that no training sample shows; `perturb` (`colour`, `jpeg:20`, …) draws the same charts
    in other pictures, under the same ids. Raises `ValueError` for an unknown perturbation."""
    charts = held_out_items(seed, count, profile)
    return to_items(charts) if perturb is None else perturbed(charts, perturb)


def to_items(charts: Sequence[ChartItem]) -> list[Item]:
    return [_item(chart) for chart in charts]


def perturbed(charts: Sequence[ChartItem], name: str) -> list[Item]:
    """The same items over perturbed pictures."""
    draw = perturbation(name)
    return [_item(chart, draw(chart.spec)) for chart in charts]


def table_items(seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight") -> list[Item]:
    """The same questions with the table in words in the picture's place: what the text decoder alone can answer."""
    charts = held_out_items(seed, count, profile)
    return [replace(_item(chart), images=(), context=chart.table_text) for chart in charts]


def extraction_items(seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight") -> list[Item]:
    """ "Write the table." of `count` charts; the reference is DePlot's linear form."""
    charts = held_out_items(seed, count, profile)
    return [
        replace(_item(chart), question=WRITE_TABLE, references=(linear_table(chart.spec),), tags={"type": chart.chart_type})
        for chart in charts
    ]


def _item(chart: ChartItem, image: bytes | None = None) -> Item:
    image = chart.image if image is None else image
    steps = str(chart.gold.steps) if chart.gold.steps < MANY_STEPS else f"{MANY_STEPS}+"
    tags = {"kind": chart.kind, "type": chart.chart_type, "steps": steps}
    return Item(
        chart.id, chart.question, (chart.answer,), (image,), group=digest(image), tags=tags, table=chart.table,
        rationale=chart.rationale,
    )  # fmt: skip


def examples(seed: int = SEED, count: int = COUNT, profile: str | Profile | Mapping = "sight") -> list[Item]:
    """Charts as in training, each with a question, its answer and rationale: what few-shot prompts show."""
    source = ChartSource(seed, "train", count, profile, questions_per_chart=1)
    charts = (source.chart(0, index) for index in range(count))
    return [_example(spec, questions[0]) for spec, questions in charts if questions]


def _example(spec: ChartSpec, question: Question) -> Item:
    image = to_png(render(spec))
    return Item(spec.key, question.text, (question.answer,), (image,), group=digest(image), rationale=question.rationale)


def load(data: Path | None, split: str) -> list[Item]:
    refuse_data(data, "charts")
    return items()


def refuse_data(data: Path | None, task: str) -> None:
    if data is not None:
        raise ValueError(f"task {task} generates its items and reads no --data, got {str(data)!r}")


TABLES = Task("tables", load, "relaxed_accuracy:pix2struct", by=BY, max_new_tokens=12)
TASK = replace(TABLES, name="charts", about="generated charts that no training sample shows; needs no download")
