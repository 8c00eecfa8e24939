"""Chart to table: "Write the table." of held-out generated charts; the reference is DePlot's linear form (Liu et al., 2023)."""

from __future__ import annotations

from pathlib import Path

from eval.tasks.base import Item, Task
from eval.tasks.charts import extraction_items, refuse_data


def load(data: Path | None, split: str) -> list[Item]:
    refuse_data(data, "charts_table")
    return extraction_items()


TASK = Task(
    "charts_table", load, "chart_table:rms", by=("type",), also=("chart_table:rnss",), max_new_tokens=256, parser="text",
    about="tables of generated charts, in DePlot's linear form; needs no download",
)  # fmt: skip
