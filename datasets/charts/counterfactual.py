"""The same chart with a value changed so that the same question has another answer: does a reader follow the picture?

Found by search, not by a second set of rules: a change is taken when the generator asks the changed chart the very same
question and answers it otherwise, clearly (numbers by more than a tenth). One value changes; a second one where no such table
lies on the chart's side of the split (a held-out chart never turns into one that training may show), and in a pie, where a
slice grows at the cost of another. Questions whose answer no value decides (how many bars there are, whether a colour is there)
have no such change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from datasets.charts.held_out import ChartItem
from datasets.charts.kinds import CURVES
from datasets.charts.print_layout import has_room
from datasets.charts.questions import make_question
from datasets.charts.rng import Draw
from datasets.charts.spec import ChartSpec, split_of
from datasets.charts.table import Table

LEVELS = 12  # new values tried for a cell
SECOND = 1500  # tables with two changes that are looked at
CLEAR = 0.1  # least relative difference of two numeric answers


def changed_item(item: ChartItem, held_out_share: float = 0.125) -> ChartItem | None:
    """The item over a changed chart: same question, another answer and rationale. `None` where there is none."""
    spec = item.spec
    draw = Draw("change", spec.key)
    twice = (second for first in _changed_tables(spec, spec.table, draw) for second in _changed_tables(spec, first, draw))
    for table in chain(_changed_tables(spec, spec.table, draw), islice(twice, SECOND)):
        if split_of(table, held_out_share) != spec.split:
            continue
        changed = replace(spec, table=table)
        if spec.printed and not has_room(changed):
            continue
        for flip in (False, True) if item.kind == "yes_no" else (False,):
            gold = make_question(changed, item.kind, flip=flip)
            if gold is not None and gold.text == item.question and clearly_other(table, gold.answer, item.answer):
                return ChartItem(f"{item.id}-changed", changed, gold)
    return None


def clearly_other(table: Table, first: str, second: str) -> bool:
    """Two different answers that no tolerance of a metric takes for each other."""
    a, b = table.number.parse(first), table.number.parse(second)
    if a is None or b is None:
        return first != second
    return abs(a - b) > CLEAR * max(abs(a), abs(b))


def _changed_tables(spec: ChartSpec, table: Table, draw: Draw) -> Iterator[Table]:
    """Every table with one legible change from `table`, in random order."""
    unit = _unit(spec)
    cells = [(row, column) for row in range(len(table.values)) for column in range(len(table.values[0]))]
    top = spec.style.axis_top if spec.printed else spec.style.axis_top - 1
    levels = range(unit, top + 1, unit)
    for row, column in draw.some(cells, len(cells)):
        for value in draw.some(levels, min(LEVELS, len(levels))):
            if value == table.values[row][column]:
                continue
            changed = _pie(table, column, value, draw) if spec.type == "pie" else _with(table, row, column, value)
            if changed is not None and _fits(spec, changed, unit):
                yield changed


def _unit(spec: ChartSpec) -> int:
    """The least legible change of a value, and the distance of legible values."""
    if not spec.printed:
        return 1
    step = spec.style.axis_step
    if spec.type == "pie" or spec.style.value_labels:
        return max(1, step // 4)
    return step // 2 if spec.style.grid else step


def _with(table: Table, row: int, column: int, value: int) -> Table:
    values = [list(line) for line in table.values]
    values[row][column] = value
    return replace(table, values=tuple(map(tuple, values)))


def _pie(table: Table, column: int, value: int, draw: Draw) -> Table | None:
    """One slice of `value`, the difference taken from or given to another one."""
    values = list(table.values[0])
    other = draw.pick([i for i in range(len(values)) if i != column]) if len(values) > 1 else column
    values[other] += values[column] - value
    values[column] = value
    return replace(table, values=(tuple(values),)) if other != column and values[other] >= min(table.values[0]) else None


def _fits(spec: ChartSpec, table: Table, unit: int) -> bool:
    """Does no mark hide another or leave the chart?"""
    if spec.type in CURVES:
        return all(len(set(column)) == len(column) for column in zip(*table.values, strict=True))
    if spec.type == "stacked_bar":
        return all(sum(column) <= spec.style.axis_top for column in zip(*table.values, strict=True))
    if spec.type == "scatter":
        dots = table.values
        return all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 2 * unit for i, a in enumerate(dots) for b in dots[:i])
    return True
