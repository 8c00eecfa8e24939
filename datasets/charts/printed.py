"""Charts with printed names and numbers: what they are about, their tables and their looks.

Every value can be read exactly: it is printed at its mark, or it lies on a tick (with a grid: or half-way between two).
Lengths of texts are only estimated here; `print_layout` measures them.
"""

from __future__ import annotations

import colorsys
from dataclasses import replace
from functools import lru_cache

from datasets.charts.content import parts, separate_curves, separate_dots, stacks
from datasets.charts.kinds import CURVES, MULTI_SERIES
from datasets.charts.profile import Profile
from datasets.charts.rng import Draw
from datasets.charts.style import Colour, Style, canvas_size
from datasets.charts.table import NumberFormat, Table
from datasets.charts.vocabulary import MEASURES, ORDERED, PIE_SCALES, SORTS, Scale

LETTER = 0.56  # mean width of a letter as a share of the font size
LEGENDS = ("top", "bottom", "right")
PALETTE: tuple[Colour, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194), (70, 70, 70),
)  # fmt: skip


def printed_chart(type_: str, profile: Profile, draw: Draw) -> tuple[Table, str, str, Style, tuple[str, ...]]:
    """Table, names of the axes, looks, and all names of the sort that the chart's marks are of."""
    if type_ == "scatter":
        return _scatter(profile, draw)
    width, height = canvas_size(profile, draw)
    font_size = max(9, round(min(width, height) / 16))
    letters = int(0.3 * (width if type_ in ("horizontal_bar", "pie") else height) / (LETTER * font_size))
    sort, categories = _names(type_ in CURVES, _columns(type_, profile, draw), letters, draw)
    series_sort, series = "", tuple[str, ...]()
    if type_ in MULTI_SERIES:
        rows = draw.integer(*(profile.lines if type_ in CURVES else profile.group_series))
        series_sort, series = _names(False, rows, 8, draw, avoid=sort)
    measure = draw.pick(list(MEASURES))
    title = _title(measure, sort, series_sort, int((width - 8) / (LETTER * (font_size + 1))), draw)
    grid, labels = draw.chance(profile.grid_share) or len(series) > 2, type_ not in CURVES and draw.chance(0.5)
    scale = draw.pick(MEASURES[measure])
    ticks, step = draw.integer(4, 6), draw.pick(scale.steps)
    if scale.number.suffix == "%":
        ticks = min(ticks, 100 * 10**scale.number.decimals // step)
    beside = len(categories) * (1 if type_ == "stacked_bar" else max(1, len(series)))
    labels = labels and _label_fits(type_, scale, step * ticks, beside, width, height, font_size)
    shape = (max(1, len(series)), len(categories))
    if type_ == "pie":
        number, values = _slices(len(categories), draw)
        ticks, step, labels = 10, 10 * 10**number.decimals, min(width, height) >= 150 and draw.chance(0.7)
    else:
        number, values = scale.number, _values(type_, shape, ticks, step, grid, labels, draw)
    table = Table(type_, categories, series, values, number, title if draw.chance(profile.title_share) else measure)
    style = _style(table, (width, height, font_size), (step * ticks, step), grid, labels, profile, draw)
    return table, sort.capitalize(), measure, style, _pool(series_sort or sort)


def _scatter(profile: Profile, draw: Draw) -> tuple[Table, str, str, Style, tuple[str, ...]]:
    """Two measures of one number format on axes of one scale, a named dot for each thing measured."""
    width, height = canvas_size(profile, draw)
    font_size = max(9, round(min(width, height) / 16))
    sort, names = _names(False, draw.integer(*profile.dots), 8, draw, avoid="none")
    scale = draw.pick(MEASURES[draw.pick(list(MEASURES))])
    across, up = draw.some([name for name, scales in MEASURES.items() if scale in scales], 2)
    ticks, step = draw.integer(4, 6), draw.pick(scale.steps)
    if scale.number.suffix == "%":
        ticks = min(ticks, 100 * 10**scale.number.decimals // step)
    values = tuple((x * step // 2, y * step // 2) for x, y in separate_dots(len(names), 2 * ticks - 1, draw))
    title = _title(up, sort, "", int((width - 8) / (LETTER * (font_size + 1))), draw)
    table = Table("scatter", (across, up), names, values, scale.number, title if draw.chance(profile.title_share) else up)
    style = _style(table, (width, height, font_size), (step * ticks, step), True, False, profile, draw)
    return table, across, up, replace(style, axis_names=True), _pool(sort)


def _columns(type_: str, profile: Profile, draw: Draw) -> int:
    ranges = {"line": profile.points, "area": profile.points, "pie": profile.slices}
    ranges |= {"grouped_bar": profile.groups, "stacked_bar": profile.groups}
    return draw.integer(*ranges.get(type_, profile.bars))


def _pool(sort: str) -> tuple[str, ...]:
    return SORTS.get(sort) or ORDERED[sort]


def _names(ordered: bool, count: int, letters: int, draw: Draw, avoid: str = "") -> tuple[str, tuple[str, ...]]:
    """A sort of names and `count` of them, none longer than `letters`; ordered ones follow each other."""
    if ordered or (not avoid and draw.chance(0.2)):
        sort = draw.pick([name for name, all_ in ORDERED.items() if len(all_) > count])
        start = draw.integer(0, len(ORDERED[sort]) - count)
        return sort, ORDERED[sort][start : start + count]
    fitting = _no_longer(max(5, letters))
    sort = draw.pick([sort for sort, names in fitting.items() if len(names) >= count and sort != avoid])
    return sort, tuple(draw.some(fitting[sort], count))


@lru_cache(maxsize=64)
def _no_longer(letters: int) -> dict[str, tuple[str, ...]]:
    return {sort: tuple(name for name in names if len(name) <= letters) for sort, names in SORTS.items()}


def _title(measure: str, sort: str, series_sort: str, letters: int, draw: Draw) -> str:
    by = f"{measure} by {series_sort or sort}"
    wordings = [by, f"{measure} in {draw.pick(SORTS['city'])}", f"{measure} in {draw.integer(1990, 2025)}"]
    fitting = [w for w in wordings if len(w) <= letters]
    return draw.pick(fitting) if fitting else measure


def _label_fits(type_: str, scale: Scale, top: int, marks: int, width: int, height: int, font_size: int) -> bool:
    """Is there room for the number at each bar?"""
    letters = len(scale.number.text(top))
    if type_ == "horizontal_bar":
        return height * 0.65 / marks >= font_size
    return (width * 0.95 - letters * LETTER * font_size - 8) / marks * 0.85 >= letters * LETTER * font_size


def _values(type_: str, shape, ticks: int, step: int, grid: bool, labels: bool, draw: Draw) -> tuple[tuple[int, ...], ...]:
    rows, columns = shape
    if type_ in CURVES:
        unit, levels = (step // 2, 2 * ticks - 1) if grid else (step, ticks)
        curves = separate_curves(rows, columns, levels, draw)
        return tuple(tuple(v * unit for v in values) for values in curves)
    if type_ == "stacked_bar":
        unit = 1 if labels else step // 2 if grid else step
        top = step * ticks // unit
        flat = stacks(rows, columns, top, max(1, top // 5) if labels else 1, draw)  # room for a number in each part
        return tuple(tuple(v * unit for v in values) for values in flat)
    if labels:
        low, high, unit = max(1, step * ticks // 20), step * ticks, 1
    else:
        unit = step // 2 if grid else step
        low, high = 1, step * ticks // unit
    return tuple(tuple(draw.integer(low, high) * unit for _ in range(columns)) for _ in range(rows))


def _slices(count: int, draw: Draw) -> tuple[NumberFormat, tuple[tuple[int, ...], ...]]:
    """Shares of a pie in percent, none under 7 so that each has room for its number."""
    number = draw.pick(PIE_SCALES)
    unit, least = 10**number.decimals, 7
    return number, (tuple(p + least * unit for p in parts((100 - least * count) * unit, count, draw)),)


def palette(count: int, dark: bool, draw: Draw) -> tuple[Colour, ...]:
    """`count` colours that can be told apart: of one list, or evenly spread hues."""
    if draw.chance(0.5):
        return tuple(draw.some(PALETTE[: 7 if dark else 8], count))
    start, light, full = draw.uniform(0, 1), draw.uniform(0.45, 0.6), draw.uniform(0.5, 0.9)
    hues = [(start + i / count) % 1 for i in range(count)]
    return tuple(_rgb(hue, light, full) for hue in hues)


def _rgb(hue: float, light: float, full: float) -> Colour:
    red, green, blue = (round(255 * c) for c in colorsys.hls_to_rgb(hue, light, full))
    return red, green, blue


def _style(table: Table, size, axis, grid: bool, labels: bool, profile: Profile, draw: Draw) -> Style:
    width, height, font_size = size
    dark = draw.chance(0.12)
    paper, ink = (draw.integer(20, 45), draw.integer(210, 245)) if dark else (draw.integer(243, 255), draw.integer(10, 55))
    pie = table.type == "pie"
    each = pie or bool(table.series) or draw.chance(0.3)
    places = ("right",) if pie and width > 1.15 * height else LEGENDS[:2] if pie or labels or width < 170 else LEGENDS
    legend = draw.pick(places) if table.series or pie else ""
    grey = paper + 35 if dark else paper - 35
    return Style(
        width=width,
        height=height,
        background=(paper,) * 3,
        ink=(ink,) * 3,
        colours=palette(len(table.marks) if each else 1, dark, draw),
        axis_top=axis[0],
        axis_step=axis[1],
        grid=(grey,) * 3 if grid else None,
        bar_fill=draw.uniform(0.55, 0.85),
        line_width=max(1, round(min(width, height) / 80)),
        marker=draw.pick(("circle", "square")),
        outline=draw.chance(0.2),
        value_labels=labels,
        legend=legend,
        font_size=font_size,
        start_angle=draw.uniform(0, 360) if profile.turn_pie else 0.0,
        hole=draw.uniform(0.3, 0.5) if draw.chance(0.25) else 0.0,
        margin=draw.integer(3, 6),
        axis_names=not pie and not labels and min(width, height) >= 160 and draw.chance(0.4),
    )
