"""The tables of charts that are answered without reading: colours and places for names, whole numbers for values."""

from __future__ import annotations

from itertools import pairwise

from datasets.charts.profile import Profile
from datasets.charts.rng import Draw
from datasets.charts.table import POSITIONS, Table

# Well apart from each other and from a white page, also at 64 pixels.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "blue": (38, 84, 220),
    "green": (34, 150, 60),
    "orange": (255, 142, 20),
    "purple": (126, 40, 172),
    "yellow": (244, 216, 40),
    "black": (28, 28, 28),
    "pink": (252, 140, 198),
}
SHAPES = {"rising": 0.28, "falling": 0.28, "flat": 0.16, "mixed": 0.28}
PIE_PARTS = 10
RESTARTS = 300  # of a set of lines, before it is called impossible


def sight_table(type_: str, profile: Profile, draw: Draw) -> Table:
    """One table for a chart of `type_`."""
    match type_:
        case "pie":
            count = draw.integer(*profile.slices)
            return Table(type_, tuple(draw.some(list(COLOURS), count)), (), (parts(PIE_PARTS, count, draw),))
        case "grouped_bar":
            rows, columns = draw.integer(*profile.group_series), draw.integer(*profile.groups)
            values = tuple(tuple(draw.integer(1, profile.top) for _ in range(columns)) for _ in range(rows))
        case "stacked_bar":
            rows, columns = draw.integer(*profile.group_series), draw.integer(*profile.groups)
            values = stacks(rows, columns, profile.top, 1, draw)
        case "scatter":
            marks = draw.some(list(COLOURS), draw.integer(*profile.dots))
            return Table(type_, ("x", "y"), tuple(marks), separate_dots(len(marks), profile.top, draw))
        case "line" | "area":
            rows, columns = draw.integer(*profile.lines), draw.integer(*profile.points)
            values = separate_curves(rows, columns, profile.top, draw)
        case _:
            count = draw.integer(*profile.bars)
            values = (tuple(draw.integer(1, profile.top) for _ in range(count)),)
            return Table(type_, tuple(draw.some(list(COLOURS), count)), (), values)
    return Table(type_, POSITIONS[:columns], tuple(draw.some(list(COLOURS), rows)), values, by_position=True)


def parts(total: int, count: int, draw: Draw) -> tuple[int, ...]:
    """`total` split into `count` positive whole parts, all splits alike."""
    cuts = sorted(draw.some(range(1, total), count - 1))
    return tuple(b - a for a, b in pairwise([0, *cuts, total]))


def stacks(rows: int, columns: int, top: int, least: int, draw: Draw) -> tuple[tuple[int, ...], ...]:
    """[rows][columns]: in each column `rows` parts of at least `least`, together at most `top`, the total drawn first."""
    if rows * least > top:
        raise ValueError(f"{rows} parts of at least {least} do not fit in a stack of {top}: fewer series, or a larger top")
    totals = [draw.integer(rows * least, top) for _ in range(columns)]
    columns_ = [[least - 1 + part for part in parts(total - rows * (least - 1), rows, draw)] for total in totals]
    return tuple(zip(*columns_, strict=True))


def separate_dots(count: int, top: int, draw: Draw) -> tuple[tuple[int, int], ...]:
    """(x, y) of `count` dots, each at least two levels from every other one along x or y, so that none hides another."""
    for _ in range(RESTARTS):
        dots: list[tuple[int, int]] = []
        for _ in range(20 * count):
            new = draw.integer(1, top), draw.integer(1, top)
            if all(max(abs(new[0] - x), abs(new[1] - y)) >= 2 for x, y in dots):
                dots.append(new)
            if len(dots) == count:
                return tuple(dots)
    raise ValueError(f"{count} dots do not keep apart on {top} levels: fewer dots, or a larger top")


def separate_curves(rows: int, columns: int, top: int, draw: Draw) -> tuple[tuple[int, ...], ...]:
    """Lines of balanced trends, no two through the same point, so that no mark hides another."""
    curves: list[tuple[int, ...]] = []
    for _ in range(RESTARTS):
        shape = draw.weighted(SHAPES)
        for _ in range(200):  # the trend is kept and its values redrawn, so that rejection does not tilt the balance
            new = curve(shape, columns, top, draw)
            if all(a != b for old in curves for a, b in zip(old, new, strict=True)):
                curves.append(new)
                break
        else:
            curves.clear()
        if len(curves) == rows:
            return tuple(curves)
    raise ValueError(
        f"{rows} lines of {columns} points do not keep apart on {top} levels: fewer lines or points, or a larger top"
    )


def curve(shape: str, columns: int, top: int, draw: Draw) -> tuple[int, ...]:
    if shape == "flat":
        return (draw.integer(1, top),) * columns
    values = [draw.integer(1, top) for _ in range(columns)]
    if shape == "mixed":
        while trend(values) != "mixed":
            values = [draw.integer(1, top) for _ in range(columns)]
        return tuple(values)
    while len(set(values)) == 1:
        values = [draw.integer(1, top) for _ in range(columns)]
    return tuple(sorted(values, reverse=shape == "falling"))


def trend(values) -> str:
    """`rising` and `falling` may pause but never turn; `flat` never moves; all else is `mixed`."""
    steps = [b - a for a, b in pairwise(values)]
    if not any(steps):
        return "flat"
    if all(step >= 0 for step in steps):
        return "rising"
    return "falling" if all(step <= 0 for step in steps) else "mixed"
