"""The same chart in another picture: what a reader of charts should not mind. Names, values and so the answers stay.

colour        other shades (of the same colour names where questions use these), another page, ink and grid
font:FILE     a font of matplotlib's folder (DejaVuSerif.ttf); charts with printed names alone
size:FACTOR   drawn larger or smaller (1.5), all lengths with it
jpeg:QUALITY  saved as JPEG (20)
renderer      drawn by the other renderer
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable
from dataclasses import replace

from datasets.charts.content import COLOURS
from datasets.charts.draw import render
from datasets.charts.printed import palette
from datasets.charts.rng import Draw
from datasets.charts.spec import ChartSpec
from datasets.charts.style import Colour, shade
from vlm.image import to_png

SHADE = 26  # largest change of a channel in a colour that keeps its name
FONTS = ("DejaVuSerif.ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneral.ttf")
Perturbation = Callable[[ChartSpec], bytes]


def perturbation(name: str) -> Perturbation:
    """`NAME` or `NAME:LEVEL` → specification → encoded picture. Raises `ValueError` naming the nearest valid one."""
    name, colon, level = name.partition(":")
    if name not in PERTURBATIONS:
        close = difflib.get_close_matches(name, PERTURBATIONS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(PERTURBATIONS)}"
        raise ValueError(f"unknown perturbation {name!r}: {hint}")
    make, default = PERTURBATIONS[name]
    if colon and not default:
        raise ValueError(f"perturbation {name!r} has no levels, got {level!r}")
    return make(level if colon else default)


def _colour(level: str) -> Perturbation:
    return lambda spec: to_png(render(recoloured(spec)))


def recoloured(spec: ChartSpec) -> ChartSpec:
    """Other colours, drawn from the chart's key."""
    draw, style = Draw("recolour", spec.key), spec.style
    if spec.printed:
        dark = draw.chance(0.5)
        paper, ink = (draw.integer(20, 60), draw.integer(200, 245)) if dark else (draw.integer(215, 255), draw.integer(0, 80))
        colours = palette(len(style.colours), dark, draw)
    else:
        paper, ink, colours = draw.integer(225, 255), draw.integer(20, 130), tuple(_shade(n, draw) for n in spec.table.marks)
    grid = None if style.grid is None else ((paper + (45 if paper < 128 else -45)),) * 3
    return spec.restyled(background=shade((paper,) * 3, 8, draw), ink=(ink,) * 3, colours=colours, grid=grid)


def _shade(name: str, draw: Draw) -> Colour:
    """A shade that is nearest to the colour of its own name."""
    while True:
        colour = shade(COLOURS[name], SHADE, draw)
        distance = {other: sum(abs(a - b) for a, b in zip(colour, rgb, strict=True)) for other, rgb in COLOURS.items()}
        if min(distance, key=distance.__getitem__) == name:
            return colour


def _font(file: str) -> Perturbation:
    if file not in FONTS:
        raise ValueError(f"font {file!r}: one of {', '.join(FONTS)}")

    def draw(spec: ChartSpec) -> bytes:
        if not spec.printed:
            raise ValueError(f"perturbation 'font' needs printed names, and profile {spec.profile!r} prints none")
        return to_png(render(spec.restyled(font=file)))

    return draw


def _size(level: str) -> Perturbation:
    factor = _number("size", level, 0.5, 4)
    return lambda spec: to_png(render(resized(spec, factor)))


def resized(spec: ChartSpec, factor: float) -> ChartSpec:
    """All lengths times `factor`."""
    lengths = ("width", "height", "font_size", "line_width", "margin")
    return spec.restyled(**{name: max(1, round(getattr(spec.style, name) * factor)) for name in lengths})


def _jpeg(level: str) -> Perturbation:
    quality = round(_number("jpeg", level, 1, 95))

    def draw(spec: ChartSpec) -> bytes:
        buffer = io.BytesIO()
        render(spec).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    return draw


def _renderer(level: str) -> Perturbation:
    other = {"own": "matplotlib", "matplotlib": "own"}
    return lambda spec: to_png(render(replace(spec, renderer=other[spec.renderer])))


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"{name}:{text}: want a number from {low:g} to {high:g}")
    return value


PERTURBATIONS: dict[str, tuple[Callable[[str], Perturbation], str]] = {
    "colour": (_colour, ""),
    "font": (_font, FONTS[0]),
    "size": (_size, "1.5"),
    "jpeg": (_jpeg, "20"),
    "renderer": (_renderer, ""),
}
