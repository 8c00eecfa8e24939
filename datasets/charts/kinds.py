"""The chart types and the words in which each is talked about.

A further type is one entry here, a way to draw it in `draw.RENDERERS` and in `second.py` and, where its tables are special, a
way to fill it in `content.py` and `printed.py`. The order of `FIRST_TYPES` is part of what the profiles that draw only these
have always shown: a new type goes behind.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """How questions speak of a chart type."""

    chart: str  # head of its table in words
    item: str  # one mark: bar, slice, line
    adjective: str  # how ... is it
    comparative: tuple[str, str]  # more, less
    superlative: tuple[str, str]  # most, least
    size: str  # what is measured
    group: str = ""  # the place of a mark along the axis, in charts of several series
    within: str = ""  # one mark of one series there
    place: str = ""  # how that place is named at the head of a question
    where: str = "place"  # what such places are, where colours do not tell them apart


CHART_TYPES: dict[str, Words] = {
    "vertical_bar": Words("vertical bars", "bar", "high", ("higher", "lower"), ("highest", "lowest"), "height"),
    "horizontal_bar": Words("horizontal bars", "bar", "long", ("longer", "shorter"), ("longest", "shortest"), "length"),
    "grouped_bar": Words(
        "grouped bars", "bar", "high", ("higher", "lower"), ("highest", "lowest"), "height", "group", "bar", "In the {} group"
    ),
    "line": Words(
        "lines", "line", "high", ("higher", "lower"), ("highest", "lowest"), "value", "point", "point", "At the {} point"
    ),
    "pie": Words("pie", "slice", "large", ("larger", "smaller"), ("largest", "smallest"), "size"),
    "stacked_bar": Words(
        "stacked bars", "part", "high", ("higher", "lower"), ("highest", "lowest"), "height", "bar", "part", "In the {} bar"
    ),
    "area": Words(
        "areas", "area", "high", ("higher", "lower"), ("highest", "lowest"), "value", "point", "point", "At the {} point"
    ),
    "scatter": Words(
        "scatter", "dot", "high", ("higher", "lower"), ("highest", "lowest"), "value", "coordinate", "coordinate",
        "By {} value", "axis",
    ),
}  # fmt: skip
FIRST_TYPES = ("vertical_bar", "horizontal_bar", "grouped_bar", "line", "pie")
CURVES = frozenset({"line", "area"})  # a series runs along the axis and has a trend
SUMS = frozenset({"pie", "stacked_bar"})  # values share one height or circle, so most are small
MULTI_SERIES = frozenset(name for name, words in CHART_TYPES.items() if words.group)
QUESTION_KINDS = (
    "value", "label", "extremum", "compare", "count", "sum", "difference", "ratio", "average", "trend", "yes_no",
    "unanswerable",
)  # fmt: skip
