"""Specification → picture, with Pillow alone and no font from the system, so that pictures are equal on every machine.

Bars are drawn on whole pixels; lines and slices on a canvas of twice the size that is then averaged down (`Image.reduce`).
Text is drawn last, at the final size, from the scalable font inside Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import PIL.Image
import PIL.ImageDraw

from datasets.charts.layout import Layout, bare_layout
from datasets.charts.print_layout import printed_layout
from datasets.charts.spec import ChartSpec
from datasets.charts.style import Colour
from datasets.charts.text import OTHER_FONT_SCALE, Printed, put_text

SMOOTH = 2  # supersampling of slanted edges
Marks = Callable[[PIL.ImageDraw.ImageDraw, ChartSpec, Layout, int], None]


def render(spec: ChartSpec) -> PIL.Image.Image:
    """The chart as an RGB picture of `spec.style.width` x `height` pixels."""
    layout, style = make_layout(spec), spec.style
    if spec.renderer == "matplotlib":
        from datasets.charts import second  # matplotlib takes a second to import

        return second.render(spec, layout)
    marks, smooth = RENDERERS[spec.type]
    image = PIL.Image.new("RGB", (style.width * smooth, style.height * smooth), style.background)
    canvas = PIL.ImageDraw.Draw(image)
    if spec.type != "pie":
        _axes(canvas, spec, layout, smooth)
    marks(canvas, spec, layout, smooth)
    if smooth > 1:
        image = image.reduce(smooth)
    if layout.texts or layout.swatches:
        _print(image, spec, layout)
    return image


def make_layout(spec: ChartSpec) -> Layout:
    return printed_layout(spec) if spec.printed else bare_layout(spec)


def _axes(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    """Grid, ticks and the two axis lines; every line one pixel of the final picture wide."""
    style, across = spec.style, spec.type == "horizontal_bar"
    left, top, right, bottom = layout.plot
    for value in range(0, style.axis_top + 1, style.axis_step):
        at = layout.at(value)
        if style.grid and value and (value // style.axis_step) % layout.grid_every == 0:
            line = (at, top, at, bottom) if across else (left, at, right, at)
            _line(canvas, line, style.grid, k)
            if spec.type == "scatter":
                _line(canvas, (layout.across(value), top, layout.across(value), bottom), style.grid, k)
        tick = (at, bottom, at, bottom + layout.tick) if across else (left - layout.tick, at, left, at)
        _line(canvas, tick, style.ink, k)
        if spec.type == "scatter":
            _line(canvas, (layout.across(value), bottom, layout.across(value), bottom + layout.tick), style.ink, k)
    _line(canvas, (left, top, left, bottom), style.ink, k)
    _line(canvas, (left, bottom, right, bottom), style.ink, k)


def _line(canvas, box: tuple[int, int, int, int], colour, k: int) -> None:
    canvas.rectangle((box[0] * k, box[1] * k, box[2] * k + k - 1, box[3] * k + k - 1), fill=colour)


def draw_bars(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    """Bars of one or several series, side by side in each group, from the axis to their value."""
    table, style = spec.table, spec.style
    for row, values in enumerate(table.values):
        for column, value in enumerate(values):
            colour = style.colours[(column if table.single else row) % len(style.colours)]
            box = layout.bar(row, column, value)
            canvas.rectangle(box, fill=colour, outline=style.ink if style.outline else None)


def draw_stacks(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    """Bars of parts, the first series at the foot."""
    table, style = spec.table, spec.style
    for row, values in enumerate(table.values):
        for column in range(len(values)):
            box = layout.segment(row, column)
            canvas.rectangle(box, fill=style.colours[row], outline=style.ink if style.outline and box[3] - box[1] > 3 else None)


def draw_areas(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    """Each series from the axis to its edge. Fills are tints under all edges; the points themselves lie on top, so that a steep
    edge beside a point does not hide it."""
    style, bottom = spec.style, layout.plot[3] * k - 1
    points = [[layout.point(c, v) for c, v in enumerate(values)] for values in spec.table.values]
    edges = [[((x + 0.5) * k, (y + 0.5) * k) for x, y in edge] for edge in points]
    for row in sorted(range(len(edges)), key=lambda row: -sum(spec.table.values[row])):
        tint = mixed(style.colours[row], style.background, 0.45)
        canvas.polygon([(edges[row][0][0], bottom), *edges[row], (edges[row][-1][0], bottom)], fill=tint)
    for edge, colour in zip(edges, style.colours, strict=True):
        canvas.line(edge, fill=colour, width=style.line_width * k, joint="curve")
    radius = (style.line_width + 1) * k / 2
    for edge, colour in zip(edges, style.colours, strict=True):
        for x, y in edge:
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def mixed(colour: Colour, paper: Colour, share: float) -> Colour:
    """`share` of `colour` on `paper`."""
    red, green, blue = (round(share * c + (1 - share) * p) for c, p in zip(colour, paper, strict=True))
    return red, green, blue


def draw_dots(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    style = spec.style
    radius = (style.line_width + 1.5) * k
    shape = canvas.ellipse if style.marker == "circle" else canvas.rectangle
    for (x_value, y_value), colour in zip(spec.table.values, style.colours, strict=True):
        x, y = (layout.across(x_value) + 0.5) * k, (layout.at(y_value) + 0.5) * k
        shape((x - radius, y - radius, x + radius, y + radius), fill=colour)


def draw_lines(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    style = spec.style
    radius = (style.line_width + 1.5) * k * 0.75
    for row, values in enumerate(spec.table.values):
        points = [((x + 0.5) * k, (y + 0.5) * k) for x, y in (layout.point(c, v) for c, v in enumerate(values))]
        canvas.line(points, fill=style.colours[row], width=style.line_width * k, joint="curve")
        shape = canvas.ellipse if style.marker == "circle" else canvas.rectangle
        for x, y in points:
            shape((x - radius, y - radius, x + radius, y + radius), fill=style.colours[row])


def draw_pie(canvas, spec: ChartSpec, layout: Layout, k: int) -> None:
    """Slices clockwise from `start_angle`, white seams between them."""
    style, (x, y, radius) = spec.style, layout.pie
    box = tuple(k * side for side in (x - radius, y - radius, x + radius, y + radius))
    values = spec.table.values[0]
    edges = [style.start_angle - 90]
    for value in values:
        edges.append(edges[-1] + 360 * value / sum(values))
    for column in range(len(values)):
        canvas.pieslice(box, edges[column], edges[column + 1], fill=style.colours[column])
    for edge in edges[:-1]:
        end = (x + radius * math.cos(math.radians(edge))) * k, (y + radius * math.sin(math.radians(edge))) * k
        canvas.line(((x * k, y * k), end), fill=style.background, width=k)
    if style.hole:
        inner = radius * style.hole
        canvas.ellipse(tuple(k * side for side in (x - inner, y - inner, x + inner, y + inner)), fill=style.background)


def _print(image: PIL.Image.Image, spec: ChartSpec, layout: Layout) -> None:
    canvas = PIL.ImageDraw.Draw(image)
    for box, colour in layout.swatches:
        canvas.rectangle(box, fill=colour)
    for text in layout.texts:
        put_text(image, text if not spec.style.font else _in_font(text, spec.style.font))


def _in_font(text: Printed, file: str) -> Printed:
    return replace(text, font=file, size=round(text.size * OTHER_FONT_SCALE))


RENDERERS: dict[str, tuple[Marks, int]] = {
    "vertical_bar": (draw_bars, 1),
    "horizontal_bar": (draw_bars, 1),
    "grouped_bar": (draw_bars, 1),
    "line": (draw_lines, SMOOTH),
    "pie": (draw_pie, SMOOTH),
    "stacked_bar": (draw_stacks, 1),
    "area": (draw_areas, SMOOTH),
    "scatter": (draw_dots, SMOOTH),
}
