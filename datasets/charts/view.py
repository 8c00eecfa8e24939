"""One list of marks that a question can be about: all bars of a simple chart, one group (or point) over all series, or one
series along the axis. Every kind of question is written once, for a view, and fits every chart type."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.charts.kinds import CHART_TYPES, Words
from datasets.charts.rng import Draw
from datasets.charts.table import Table, column_fact, facts, row_fact


@dataclass(frozen=True, slots=True)
class View:
    """`row` is set for one series along the axis, `column` for one place over all series, neither in a chart of one series."""

    table: Table
    printed: bool  # names are printed in the chart (profile `read`), not colours and places
    row: int | None = None
    column: int | None = None

    @property
    def words(self) -> Words:
        return CHART_TYPES[self.table.type]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.table.series if self.column is not None else self.table.categories

    @property
    def values(self) -> tuple[int, ...]:
        if self.column is not None:
            return tuple(row[self.column] for row in self.table.values)
        return self.table.values[self.row or 0]

    @property
    def prefix(self) -> str:
        """Where in the chart the question is: the head of its sentence."""
        if self.column is not None:
            place = self.table.categories[self.column]
            return f"For {place}, " if self.printed else f"{self.words.place.format(place)}, "
        return "" if self.row is None else f"For {self.table.series[self.row]}, "

    @property
    def noun(self) -> str:
        return self.words.item if self.row is None else self.words.within

    def name(self, label: str) -> str:
        """How a question names a mark; it need not be in the chart."""
        return label if self.printed else f"the {label} {self.noun}"

    def number(self, value: int) -> str:
        return self.table.number.text(value)

    def unique(self, value: int) -> bool:
        return self.values.count(value) == 1

    def facts(self, marks: tuple[int, ...] | None = None) -> list[str]:
        """The part of the table that shows `marks` (all by default), as steps of a rationale."""
        if self.table.single:
            return facts(self.table, None if marks is None else tuple(sorted(marks)))
        if self.row is not None:
            return [row_fact(self.table, self.row)]
        assert self.column is not None  # a chart of several series is seen along a row or a column
        rows = tuple(range(len(self.labels))) if marks is None else tuple(sorted(marks))
        return [*facts(self.table, rows), column_fact(self.table, self.column, rows)]


def pick_view(table: Table, printed: bool, draw: Draw, least: int = 1) -> View | None:
    """A view of at least `least` marks, drawn evenly from the two directions where there are two."""
    if table.single:
        return View(table, printed) if len(table.categories) >= least else None
    along, across = len(table.categories) >= least, len(table.series) >= least
    if across and (not along or draw.chance(0.5)):
        return View(table, printed, column=draw.integer(0, len(table.categories) - 1))
    return View(table, printed, row=draw.integer(0, len(table.series) - 1)) if along else None
