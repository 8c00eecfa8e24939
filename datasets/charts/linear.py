"""The table of a chart in the linear form of chart-to-table models (DePlot; Liu et al., 2023): a title, a header, a line a row.

    title | Sales in Lima
    Year | Exports | Imports
    2019 | 3.4 | 3.1

Rows are what the horizontal axis (or a pie's legend) names, columns are series; in a scatter chart rows are dots and columns
its two axes. Numbers are plain, without currency, unit or separators: so the metric that compares tables takes them as numbers.
"""

from __future__ import annotations

from datasets.charts.kinds import CHART_TYPES
from datasets.charts.spec import ChartSpec
from datasets.charts.table import NumberFormat

WRITE_TABLE = "Write the table."


def linear_table(spec: ChartSpec) -> str:
    """Lines of cells parted by ` | `; without a title where the chart has none."""
    table = spec.table
    if spec.type == "scatter":
        rows, header, names = table.values, ["name", *table.categories], table.series
    elif table.single:
        rows, header, names = tuple(zip(*table.values, strict=True)), [_row_head(spec), _value_head(spec)], table.categories
    else:
        rows, header, names = tuple(zip(*table.values, strict=True)), [_row_head(spec), *table.series], table.categories
    number = NumberFormat(table.number.decimals)
    lines = [["title", table.title]] if table.title else []
    lines += [header, *([name, *map(number.text, row)] for name, row in zip(names, rows, strict=True))]
    return "\n".join(" | ".join(line) for line in lines)


def _row_head(spec: ChartSpec) -> str:
    return spec.x_name or ("colour" if spec.table.single else "place")


def _value_head(spec: ChartSpec) -> str:
    return spec.y_name or CHART_TYPES[spec.type].size
