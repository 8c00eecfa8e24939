"""The second renderer: a specification drawn by matplotlib, in its looks, with its fonts, anti-aliasing, frames and ticks.

A model that has only seen one renderer may have learnt that renderer. Values, names, colours and room are those of the
specification (the plot stands where our own layout puts it), so the gold is as exact; how things look is matplotlib's. A
picture depends on the installed matplotlib version; our own renderer is the one whose pixels never change. No pyplot: its
state is global.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from datasets.charts.kinds import CURVES
from datasets.charts.layout import Layout
from datasets.charts.style import readable_ink
from datasets.charts.text import OTHER_FONT_SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from datasets.charts.spec import ChartSpec

DPI = 100
POINT = 72 / DPI  # points a pixel


def render(spec: ChartSpec, layout: Layout) -> PIL.Image.Image:
    """The chart as an RGB picture of `spec.style.width` x `height` pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = spec.style
    figure = Figure(figsize=(style.width / DPI, style.height / DPI), dpi=DPI, facecolor=_rgb(style.background))
    canvas = FigureCanvasAgg(figure)
    left, top, right, bottom = layout.plot
    box = left / style.width, 1 - (bottom + 1) / style.height, (right - left) / style.width, (bottom - top) / style.height
    axes = figure.add_axes(box, facecolor=_rgb(style.background))
    if spec.type == "pie":
        _pie(axes, spec)
    else:
        MARKS[spec.type](axes, spec)
        _axes(axes, spec, layout)
    _texts(figure, axes, spec, layout)
    canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _colours(spec: ChartSpec) -> list[tuple[float, float, float]]:
    return [_rgb(colour) for colour in spec.style.colours]


def _size(spec: ChartSpec, share: float = 1.0) -> float:
    return spec.style.font_size * POINT * OTHER_FONT_SCALE * share


def _axes(axes: Axes, spec: ChartSpec, layout: Layout) -> None:
    """Ranges, ticks, their texts where printed, and the grid."""
    style, table, across = spec.style, spec.table, spec.type == "horizontal_bar"
    ticks = range(0, style.axis_top + 1, style.axis_step)
    places = range(len(table.categories))
    names = table.categories if spec.printed else [""] * len(places)
    shown = {text.text for text in layout.texts}  # our layout has left out the numbers for which there is no room
    numbers = [text if text in shown else "" for text in map(table.number.text, ticks)]
    value_axis, name_axis = (axes.xaxis, axes.yaxis) if across else (axes.yaxis, axes.xaxis)
    (axes.set_xlim if across else axes.set_ylim)(0, style.axis_top)
    value_axis.set_ticks(list(ticks), numbers)
    if spec.type == "scatter":
        axes.set_xlim(0, style.axis_top)
        name_axis.set_ticks(list(ticks), numbers)
    else:
        (axes.set_ylim if across else axes.set_xlim)(*((len(places) - 0.5, -0.5) if across else (-0.5, len(places) - 0.5)))
        name_axis.set_ticks(list(places), names)
    if style.grid:
        (axes if spec.type == "scatter" else value_axis).grid(True, color=_rgb(style.grid), linewidth=POINT)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_rgb(style.ink), labelsize=_size(spec), length=2, width=POINT, pad=1)
    for side, spine in axes.spines.items():
        spine.set(color=_rgb(style.ink), linewidth=POINT, visible=style.outline or side in ("left", "bottom"))


def _bars(axes: Axes, spec: ChartSpec) -> None:
    table, style, colours = spec.table, spec.style, _colours(spec)
    width = style.bar_fill / len(table.values)
    for row, values in enumerate(table.values):
        at = np.arange(len(values)) + (row - (len(table.values) - 1) / 2) * width
        own = [colours[i % len(colours)] for i in range(len(values))] if table.single else colours[row]
        draw = axes.barh if spec.type == "horizontal_bar" else axes.bar
        bars = draw(at, values, width, color=own, edgecolor=_rgb(style.ink) if style.outline else "none", linewidth=POINT)
        if style.value_labels:
            texts = [table.number.text(v) for v in values]
            axes.bar_label(bars, texts, fontsize=_size(spec, 0.9), color=_rgb(style.ink), padding=1)


def _stacks(axes: Axes, spec: ChartSpec) -> None:
    table, style = spec.table, spec.style
    below = np.zeros(len(table.categories), dtype=int)
    for row, values in enumerate(table.values):
        edge = _rgb(style.ink) if style.outline else "none"
        bars = axes.bar(
            range(len(values)), values, style.bar_fill, below, color=_colours(spec)[row], edgecolor=edge, linewidth=POINT
        )  # fmt: skip
        if style.value_labels:
            ink = _rgb(readable_ink(style.colours[row]))
            texts = [table.number.text(v) for v in values]
            axes.bar_label(bars, texts, label_type="center", fontsize=_size(spec, 0.9), color=ink)
        below = below + np.array(values)


def _curves(axes: Axes, spec: ChartSpec) -> None:
    style, marker = spec.style, "o" if spec.style.marker == "circle" else "s"
    if spec.type == "area":
        for row in sorted(range(len(spec.table.values)), key=lambda row: -sum(spec.table.values[row])):
            axes.fill_between(
                range(len(spec.table.categories)), spec.table.values[row], color=_colours(spec)[row], alpha=0.4, lw=0
            )
    size = style.line_width + (3 if spec.type == "line" else 1)
    for values, colour in zip(spec.table.values, _colours(spec), strict=True):
        places = range(len(values))
        axes.plot(places, values, color=colour, linewidth=(style.line_width + 0.5) * POINT, clip_on=False)
        axes.plot(places, values, marker, color=colour, markersize=size * POINT, clip_on=False, zorder=3)


def _dots(axes: Axes, spec: ChartSpec) -> None:
    size = (2 * (spec.style.line_width + 1.5) * POINT) ** 2
    x, y = zip(*spec.table.values, strict=True)
    axes.scatter(x, y, s=size, c=_colours(spec), marker="o" if spec.style.marker == "circle" else "s", clip_on=False, zorder=3)


def _pie(axes: Axes, spec: ChartSpec) -> None:
    """Slices clockwise from `start_angle`."""
    style, table = spec.style, spec.table
    axes.pie(
        table.values[0],
        colors=_colours(spec),
        startangle=90 - style.start_angle,
        counterclock=False,
        wedgeprops={"width": 1 - style.hole, "edgecolor": _rgb(style.background), "linewidth": POINT},
    )
    axes.set(xlim=(-1, 1), ylim=(-1, 1))


def _texts(figure: Figure, axes: Axes, spec: ChartSpec, layout: Layout) -> None:
    """Title, names of the axes, legend and the numbers around a pie, where our own layout has kept room for these."""
    from matplotlib.patches import Rectangle

    style, ink = spec.style, _rgb(spec.style.ink)
    for text in layout.texts:  # all but those of axes and marks, which are matplotlib's own business
        if text.heading or spec.type == "pie":
            x, y = text.x / style.width, 1 - text.y / style.height
            turned = {"ha": "center", "va": "top", "rotation": 90}
            lying = {"ha": "left" if text.anchor == "lm" else "center", "va": "center"}
            look = turned if text.rotated else lying
            figure.text(x, y, text.text, fontsize=text.size * POINT * OTHER_FONT_SCALE, color=ink, **look)
    if any(text.rotated and not text.heading for text in layout.texts):
        axes.tick_params(axis="x", labelrotation=90)
    for (left, top, right, bottom), colour in layout.swatches:
        size = (right - left) / style.width, (bottom - top) / style.height
        place = left / style.width, 1 - bottom / style.height
        figure.add_artist(Rectangle(place, *size, transform=figure.transFigure, facecolor=_rgb(colour), edgecolor="none"))


MARKS = {
    "vertical_bar": _bars,
    "horizontal_bar": _bars,
    "grouped_bar": _bars,
    "stacked_bar": _stacks,
    "scatter": _dots,
    **dict.fromkeys(CURVES, _curves),
}
