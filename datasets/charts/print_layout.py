"""Room for printed texts: title, legend, names and numbers of the axes, numbers at marks; the plot takes what is left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from datasets.charts.kinds import CURVES
from datasets.charts.layout import Box, Layout
from datasets.charts.style import Colour, readable_ink
from datasets.charts.text import Printed, text_width

if TYPE_CHECKING:
    from datasets.charts.spec import ChartSpec

GAP = 3  # pixels between neighbouring things
LEAST_PLOT, LEAST_BAR, LEAST_STEP = 34, 3, 2.5  # pixels: sides of the plot, width of a bar, half the distance of two ticks


def printed_layout(spec: ChartSpec) -> Layout:
    """Layout with all texts and legend swatches placed."""
    layout, upright = _framed(spec)
    if spec.type == "pie":
        if spec.style.value_labels:
            _slice_numbers(layout)
        return layout
    _tick_texts(layout)
    if spec.type == "scatter":
        _lying_tick_texts(layout)
    else:
        _category_texts(layout, upright)
    if spec.style.value_labels:
        _bar_numbers(layout)
    return layout


def _framed(spec: ChartSpec) -> tuple[Layout, bool]:
    """Layout with the plot, and all texts but those of ticks and marks; are the names of the categories written upright?"""
    style, m = spec.style, spec.style.margin
    texts: list[Printed] = []
    swatches: list[tuple[Box, Colour]] = []
    box = [m, m, style.width - 1 - m, style.height - 1 - m]  # what is left; each step below takes its share
    _title(spec, box, texts)
    _legend(spec, box, texts, swatches)
    if style.axis_names and spec.type != "pie":
        _axis_names(spec, box, texts)
    upright = _mark_room(spec, box)
    left, top, right, bottom = (round(side) for side in box)
    return Layout(spec, (left, top, right, bottom), 2, 1, texts, swatches), upright


def has_room(spec: ChartSpec) -> bool:
    """Do the texts leave a plot whose marks can be told apart and read off?"""
    layout, _ = _framed(spec)
    left, top, right, bottom = layout.plot
    if min(right - left, bottom - top) < LEAST_PLOT:
        return False
    if spec.type == "pie":
        return True
    if spec.type == "stacked_bar" and spec.style.value_labels and not _numbers_fit(layout):
        return False
    half_step = abs(layout.at(spec.style.axis_top) - layout.at(0)) * spec.style.axis_step / spec.style.axis_top / 2
    beside = 1 if spec.type == "stacked_bar" else len(spec.table.values)
    bar = layout.slot(0)[1] * spec.style.bar_fill / beside
    return half_step >= LEAST_STEP and (spec.type in (*CURVES, "scatter") or bar >= LEAST_BAR)


def _numbers_fit(layout: Layout) -> bool:
    """Has each part of a stacked bar room for its number?"""
    rows, columns = len(layout.spec.table.values), len(layout.spec.table.categories)
    boxes = (layout.segment(row, column) for row in range(rows) for column in range(columns))
    return all(bottom - top >= layout.spec.style.font_size for _, top, _, bottom in boxes)


def _put(
    spec: ChartSpec,
    text: str,
    x: float,
    y: float,
    anchor: str = "mm",
    size: int = 0,
    *,
    rotated: bool = False,
    heading: bool = False,
) -> Printed:
    return Printed(text, x, y, size or spec.style.font_size, spec.style.ink, anchor, rotated, heading=heading)


def _title(spec: ChartSpec, box: list, texts: list) -> None:
    size = spec.style.font_size + 1
    texts.append(_put(spec, spec.table.title, (box[0] + box[2]) / 2, box[1] + size / 2, "mm", size, heading=True))
    box[1] += size + GAP


def _legend(spec: ChartSpec, box: list, texts: list, swatches: list) -> None:
    """A column at the right, or rows above or below the plot, each row filled before the next."""
    style, size, names = spec.style, spec.style.font_size, _legend_names(spec)
    if not style.legend:
        return
    widths = [size + GAP + text_width(name, size) + 2 * GAP for name in names]
    per_row = 1 if style.legend == "right" else _per_row(widths, box[2] - box[0])
    rows = math.ceil(len(names) / per_row)
    if style.legend == "right":
        box[2] -= max(widths)
        left, top = box[2] + GAP, box[1]
    else:
        height = rows * (size + GAP)
        left, top = box[0], box[1] if style.legend == "top" else box[3] - height
        box[1] += height if style.legend == "top" else 0
        box[3] -= height if style.legend == "bottom" else 0
    cell = max(widths)
    for i, name in enumerate(names):
        x, y = left + (i % per_row) * cell, top + (i // per_row) * (size + GAP)
        swatches.append(((round(x), round(y + 2), round(x + size - 4), round(y + size - 2)), style.colours[i]))
        texts.append(_put(spec, name, x + size, y + size / 2, "lm", heading=True))


def _legend_names(spec: ChartSpec) -> tuple[str, ...]:
    """The marks; with their numbers in a pie that has none around it."""
    table = spec.table
    if spec.type != "pie" or spec.style.value_labels:
        return table.marks
    return tuple(f"{name} {table.number.text(value)}" for name, value in zip(table.marks, table.values[0], strict=True))


def _per_row(widths: list[float], room: float) -> int:
    return max(1, min(len(widths), int(room / max(widths))))


def _slice_rim(spec: ChartSpec) -> tuple[float, float]:
    """Room that the numbers around a pie need at each side and above and below; none where there are no numbers."""
    table, size = spec.table, spec.style.font_size
    if not spec.style.value_labels:
        return 0, 0
    return max(text_width(table.number.text(v), size) for v in table.values[0]) + GAP, size + GAP


def _slice_numbers(layout: Layout) -> None:
    spec, (x, y, radius), (across, down) = layout.spec, layout.pie, _slice_rim(layout.spec)
    angle, values = math.radians(spec.style.start_angle - 90), spec.table.values[0]
    for value in values:
        turn = 2 * math.pi * value / sum(values)
        middle = angle + turn / 2
        reach = math.cos(middle) * (radius + across / 2), math.sin(middle) * (radius + down / 2)
        layout.texts.append(_put(spec, spec.table.number.text(value), x + reach[0], y + reach[1]))
        angle += turn


def _axis_names(spec: ChartSpec, box: list, texts: list) -> None:
    """Along the left and the lower edge."""
    size, across = spec.style.font_size, spec.type == "horizontal_bar"
    upright, lying = (spec.x_name, spec.y_name) if across else (spec.y_name, spec.x_name)
    middle = (box[1] + box[3]) / 2 - text_width(upright, size) / 2
    texts.append(_put(spec, upright, box[0] + size / 2, middle, rotated=True, heading=True))
    texts.append(_put(spec, lying, (box[0] + box[2]) / 2, box[3] - size / 2, heading=True))
    box[0] += size + GAP
    box[3] -= size + GAP


def _ticks(spec: ChartSpec) -> list[int]:
    return list(range(0, spec.style.axis_top + 1, spec.style.axis_step))


def _mark_room(spec: ChartSpec, box: list) -> bool:
    """Take the room that the texts of axes or slices need; are the names of the categories written upright?"""
    table, size = spec.table, spec.style.font_size
    if spec.type == "pie":
        across, down = _slice_rim(spec)
        box[:] = box[0] + across, box[1] + down, box[2] - across, box[3] - down
        return False
    numbers = max(text_width(table.number.text(v), size) for v in _ticks(spec))
    names = [text_width(name, size) for name in table.categories]
    if spec.type == "horizontal_bar":
        box[0] += max(names) + GAP + 2
        box[2] -= numbers / 2 + GAP + (numbers / 2 if spec.style.value_labels else 0)
        box[3] -= size + GAP + 2
        return False
    box[0] += numbers + GAP + 2
    if spec.type == "scatter":
        box[1] += size / 2
        box[2] -= numbers / 2
        box[3] -= size + GAP + 2
        return False
    box[1] += size if spec.style.value_labels else size / 2
    upright = max(names) > (box[2] - box[0]) / len(names) - 1
    box[3] -= (max(names) if upright else size) + GAP + 2
    return upright


def _tick_texts(layout: Layout) -> None:
    spec, (left, _, _, bottom) = layout.spec, layout.plot
    ticks, size = _ticks(spec), spec.style.font_size
    number = spec.table.number
    if spec.type == "horizontal_bar":
        _lying_tick_texts(layout)
        return
    every = max(1, math.ceil((size + 1) * (len(ticks) - 1) / max(1, bottom - layout.plot[1])))
    for value in ticks[::every]:
        layout.texts.append(_put(spec, number.text(value), left - GAP - 1, layout.at(value), "rm"))


def _lying_tick_texts(layout: Layout) -> None:
    """Numbers under the horizontal axis: that of horizontal bars, and the second of a scatter chart."""
    spec, (left, _, right, bottom) = layout.spec, layout.plot
    ticks, size, number = _ticks(spec), spec.style.font_size, spec.table.number
    widest = max(text_width(number.text(v), size) for v in ticks)
    every = max(1, math.ceil((widest + 2) * (len(ticks) - 1) / max(1, right - left)))
    for value in ticks[::every]:
        at = layout.across(value)
        layout.texts.append(_put(spec, number.text(value), at, bottom + GAP + size / 2))


def _category_texts(layout: Layout, upright: bool) -> None:
    spec, (left, _, _, bottom) = layout.spec, layout.plot
    for column, name in enumerate(spec.table.categories):
        start, length = layout.slot(column)
        if spec.type == "horizontal_bar":
            layout.texts.append(_put(spec, name, left - GAP, start + length / 2, "rm"))
        elif upright:
            layout.texts.append(_put(spec, name, start + length / 2, bottom + GAP, rotated=True))
        else:
            layout.texts.append(_put(spec, name, start + length / 2, bottom + GAP + spec.style.font_size / 2))


def _bar_numbers(layout: Layout) -> None:
    spec = layout.spec
    for row, values in enumerate(spec.table.values):
        for column, value in enumerate(values):
            text = spec.table.number.text(value)
            if spec.type == "stacked_bar":
                left, top, right, bottom = layout.segment(row, column)
                ink = readable_ink(spec.style.colours[row])
                layout.texts.append(replace(_put(spec, text, (left + right) / 2, (top + bottom) / 2), colour=ink))
                continue
            left, top, right, bottom = layout.bar(row, column, value)
            if spec.type == "horizontal_bar":
                layout.texts.append(_put(spec, text, right + 2, (top + bottom) / 2, "lm"))
            else:
                layout.texts.append(_put(spec, text, (left + right) / 2, top - spec.style.font_size / 2))
