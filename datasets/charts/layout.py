"""Where things stand in the picture: the plot's box, the value scale, bars, points, slices, and the printed texts.

Coordinates are pixels of the final picture; a box (left, top, right, bottom) includes its last pixel, as in Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets.charts.style import Colour
from datasets.charts.text import Printed

if TYPE_CHECKING:  # a specification is accepted only once its layout has room
    from datasets.charts.spec import ChartSpec

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Geometry of one chart."""

    spec: ChartSpec
    plot: Box
    tick: int = 2
    grid_every: int = 2  # ticks
    texts: list[Printed] = field(default_factory=list)
    swatches: list[tuple[Box, Colour]] = field(default_factory=list)

    def at(self, value: float) -> int:
        """Pixel of `value` along the value axis (x of horizontal bars, y of all others)."""
        left, top, right, bottom = self.plot
        share = value / self.spec.style.axis_top
        if self.spec.type == "horizontal_bar":
            return round(left + share * (right - left))
        return round(bottom - share * (bottom - top))

    def across(self, value: float) -> int:
        """Pixel of `value` along the horizontal axis of a scatter chart, which has the scale of the vertical one."""
        left, _, right, _ = self.plot
        return round(left + value / self.spec.style.axis_top * (right - left))

    def slot(self, column: int) -> tuple[float, float]:
        """Start and length of a category's share of its axis."""
        left, top, right, bottom = self.plot
        start, length = (top, bottom - top) if self.spec.type == "horizontal_bar" else (left + 1, right - left - 1)
        size = length / len(self.spec.table.categories)
        return start + column * size, size

    def bar(self, row: int, column: int, value: int) -> Box:
        """The filled box: it starts beside the axis line and its far edge is the value's pixel."""
        (start, size), fill = self.slot(column), self.spec.style.bar_fill
        width = size * fill / len(self.spec.table.values)
        first = start + size * (1 - fill) / 2 + row * width
        low, high = round(first), max(round(first), round(first + width) - 1)
        if self.spec.type == "horizontal_bar":
            return self.plot[0] + 1, low, self.at(value), high
        return low, self.at(value), high, self.plot[3] - 1

    def segment(self, row: int, column: int) -> Box:
        """A part of a stacked bar, on top of those of the series before."""
        (start, size), fill = self.slot(column), self.spec.style.bar_fill
        low = round(start + size * (1 - fill) / 2)
        high = max(low, low + round(size * fill) - 1)
        below = sum(values[column] for values in self.spec.table.values[:row])
        return low, self.at(below + self.spec.table.values[row][column]), high, self.at(below) - 1

    def point(self, column: int, value: int) -> tuple[float, int]:
        start, size = self.slot(column)
        return start + size / 2, self.at(value)

    @property
    def pie(self) -> tuple[float, float, float]:
        """Centre x, y and radius."""
        left, top, right, bottom = self.plot
        return (left + right) / 2, (top + bottom) / 2, min(right - left, bottom - top) / 2


def bare_layout(spec: ChartSpec) -> Layout:
    """Layout of a chart without printed names: the plot fills the canvas but for margin and ticks."""
    style, m = spec.style, spec.style.margin
    if spec.type == "pie":
        return Layout(spec, (m, m, style.width - 1 - m, style.height - 1 - m))
    return Layout(spec, (m + 3, m, style.width - 1 - m, style.height - 4 - m))
