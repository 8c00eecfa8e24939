"""How a chart looks: canvas, colours, lines, and which texts are printed."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.charts.content import COLOURS, PIE_PARTS
from datasets.charts.profile import Profile
from datasets.charts.rng import Draw
from datasets.charts.table import Table

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Style:
    """Looks. Lengths are pixels of the final picture."""

    width: int
    height: int
    background: Colour
    ink: Colour  # text and axes
    colours: tuple[Colour, ...]  # one for each mark (slice, bar, line), or a single one for all bars
    axis_top: int  # upper end of the value axis, in the table's units
    axis_step: int  # between ticks
    grid: Colour | None
    bar_fill: float  # share of a bar's slot that is filled
    line_width: int
    marker: str  # "circle" or "square"
    outline: bool
    value_labels: bool  # numbers at the marks (a pie without them has its numbers in the legend)
    legend: str  # "", "top", "bottom" or "right"
    font_size: int
    start_angle: float  # degrees clockwise from twelve o'clock, of a pie's first slice
    hole: float  # inner radius of a ring, as a share of the outer
    margin: int
    axis_names: bool = False
    font: str = ""  # a file of matplotlib's font folder; "" is the font inside Pillow


def canvas_size(profile: Profile, draw: Draw) -> tuple[int, int]:
    side, aspect = draw.integer(*profile.side), draw.uniform(*profile.aspect)
    return (side, max(32, round(side / aspect))) if aspect >= 1 else (max(32, round(side * aspect)), side)


def sight_style(table: Table, profile: Profile, draw: Draw) -> Style:
    """Looks of a chart without printed names: each mark in a shade of the colour it is named by."""
    width, height = canvas_size(profile, draw)
    paper = draw.integer(236, 255) if draw.chance(0.4) else 255
    colours = tuple(shade(COLOURS[name], 10, draw) for name in table.marks)
    scale = min(width, height) / 64
    return Style(
        width=width,
        height=height,
        background=shade((paper, paper, paper), 3, draw),
        ink=(draw.integer(60, 110),) * 3,
        colours=colours,
        axis_top=PIE_PARTS if table.type == "pie" else profile.top + 1,
        axis_step=1,
        grid=(draw.integer(200, 222),) * 3 if draw.chance(profile.grid_share) else None,
        bar_fill=draw.uniform(0.55, 0.9),
        line_width=max(1, round(scale * draw.pick((1.5, 2)))),
        marker=draw.pick(("circle", "square")),
        outline=draw.chance(0.3),
        value_labels=False,
        legend="",
        font_size=max(8, round(8 * scale)),
        start_angle=36.0 * draw.integer(0, 9) if profile.turn_pie else 0.0,
        hole=draw.uniform(0.3, 0.5) if draw.chance(0.2) else 0.0,
        margin=max(2, round(scale * draw.uniform(2, 5))),
    )


def shade(colour: Colour, spread: int, draw: Draw) -> Colour:
    red, green, blue = (min(255, max(0, c + draw.integer(-spread, spread))) for c in colour)
    return red, green, blue


def readable_ink(colour: Colour) -> Colour:
    """Black or white, whichever stands out from `colour` (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
