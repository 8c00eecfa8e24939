"""What a summary holds, as tables: whatever figures a task, an arm or an analysis put there are found by their form.

A figure is a mapping with `value` and `interval`. A mapping of figures is a table; a mapping of such mappings one with several
columns (figures by chart type, errors by kind, …).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.reporting.text import clean
from eval.table import MISSING, share_text

ROWS = 200  # of a table, at most
WIDTH = 80  # characters of a name, at most
FIGURE = ("figure", "n")  # columns


@dataclass(frozen=True, slots=True)
class Table:
    """`rows`: name → a cell a column."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


def is_figure(value: object) -> bool:
    return isinstance(value, Mapping) and "value" in value and ("interval" in value or "spread" in value)


def figures_in(summary: Mapping) -> dict[str, Mapping]:
    """Figures over all items, by name; those of several seeds of the support are means over these."""
    return {name: value for name, value in {**summary, **summary.get("support_seeds", {})}.items() if is_figure(value)}


def figure_text(figure: Mapping | None) -> str:
    """Shares as percentages; what is no share (a score of 0 to 2,000, a count) as a number."""
    if not figure or figure["value"] is None:
        return MISSING
    if "spread" in figure:
        return f"{100 * figure['value']:.1f} % ± {100 * figure['spread']:.1f} over {len(figure['seeds'])} seeds"
    bounds = figure["interval"]
    if max(map(abs, [figure["value"], *(bounds or ())])) <= 1:
        return share_text(dict(figure))
    return f"{figure['value']:.5g}" + (f" [{bounds[0]:.5g}, {bounds[1]:.5g}]" if bounds else "")


def breakdowns(summary: Mapping) -> dict[str, Mapping[str, Mapping]]:
    """Tag → its values' figures, for plots: of one figure each."""
    found = {name.removeprefix("by_"): part for name, part in summary.items() if name.startswith("by_")}
    return {name: part for name, part in found.items() if part and all(map(is_figure, part.values()))}


def tables(summary: Mapping) -> list[Table]:
    """Every mapping of figures in the summary, arms and seeds of the support left out."""
    parts = {name: value for name, value in summary.items() if name not in ("arms", "support_seeds")}
    return list(_tables(parts, ""))


def _tables(parts: Mapping[str, Any], above: str) -> Iterator[Table]:
    for name, value in parts.items():
        if not isinstance(value, Mapping) or is_figure(value) or name.startswith("against_"):
            continue
        title = above + short(name)
        if figures := {key: part for key, part in value.items() if is_figure(part)}:
            yield Table(title, FIGURE, {short(k): (figure_text(f), f"{f['n']:,}") for k, f in _first(figures)})
        several = {key: part for key, part in value.items() if isinstance(part, Mapping) and any(map(is_figure, part.values()))}
        if several and len(several) == len(value):
            columns = tuple(dict.fromkeys(c for part in several.values() for c in part if is_figure(part[c])))
            rows = {short(k): tuple(figure_text(part.get(c)) for c in columns) for k, part in _first(several)}
            yield Table(title, tuple(map(short, columns)), rows)
        else:
            yield from _tables({k: v for k, v in value.items() if not is_figure(v)}, f"{title}: ")


def side_by_side(by_arm: Mapping[str, list[Table]]) -> list[Table]:
    """Tables of one title as one; with several arms its columns are named by them."""
    if len(by_arm) == 1:
        return next(iter(by_arm.values()))
    titles = dict.fromkeys(table.title for found in by_arm.values() for table in found)
    return [_joined(title, {a: t for a, found in by_arm.items() for t in found if t.title == title}) for title in titles]


def _joined(title: str, parts: Mapping[str, Table]) -> Table:
    """Of one figure each, their numbers of items are left out."""
    cells = {arm: 1 if table.columns == FIGURE else len(table.columns) for arm, table in parts.items()}
    columns = [arm if cells[arm] == 1 else f"{arm}: {c}" for arm, table in parts.items() for c in table.columns[: cells[arm]]]
    names = dict.fromkeys(name for table in parts.values() for name in table.rows)
    nothing = (MISSING,) * max(len(table.columns) for table in parts.values())
    rows = {n: tuple(c for arm, t in parts.items() for c in t.rows.get(n, nothing)[: cells[arm]]) for n in names}
    return Table(title, tuple(columns), rows)


def _first(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(parts.items())[:ROWS]


def short(name: object) -> str:
    """A name from a summary, for a cell."""
    return clean(str(name).replace("_", " "), WIDTH)


def settings(summary: Mapping) -> dict[str, str]:
    """What was asked and how: every plain value of a summary."""
    plain = {k: v for k, v in summary.items() if isinstance(v, str | int | float | bool) and k not in ("task", "missing")}
    return {name.replace("_", " "): str(value)[:WIDTH] for name, value in plain.items() if value not in ("", False)}
