"""The table behind a chart, its number format, and its wording.

There is one wording, in which tables are given as text, transcribed from pictures and quoted in rationales.

Values are integers in units of the last printed place (12.3 % with one decimal is 123), so that sums and ties
are exact. Names never contain `;`, `:`, `|` or a comma.

    one series              red 7; blue 3; green 9
    several, by position    red: 3 7; blue: 2 9
    several, by label       Exports: 2019 3.4, 2020 5.6; Imports: 2019 3.1, 2020 4.9
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from datasets.charts.kinds import CHART_TYPES

POSITIONS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How values are written: `prefix` + digits + `suffix`, with `decimals` places."""

    decimals: int = 0
    prefix: str = ""
    suffix: str = ""
    thousands: bool = False

    def text(self, value: int) -> str:
        """`value` (in last places) as written in chart, table and answer."""
        whole, part = divmod(abs(value), 10**self.decimals)
        digits = f"{whole:,}" if self.thousands else str(whole)
        tail = f".{part:0{self.decimals}d}" if self.decimals else ""
        return f"{'-' if value < 0 else ''}{self.prefix}{digits}{tail}{self.suffix}"

    @property
    def pattern(self) -> re.Pattern[str]:
        return _pattern(self)

    def parse(self, text: str) -> Fraction | None:
        """A number as written (prefix and suffix may be missing) in last places; `None` if it is not one."""
        match = self.pattern.fullmatch(text.strip())
        return None if match is None else Fraction(match["digits"].replace(",", "")) * 10**self.decimals


@lru_cache(maxsize=256)
def _pattern(number: NumberFormat) -> re.Pattern[str]:
    digits = r"(?P<digits>-?[0-9]{1,15}(?:,[0-9]{3}){0,5}(?:\.[0-9]{1,6})?)"
    return re.compile(rf"(?:{re.escape(number.prefix)})?{digits}(?:{re.escape(number.suffix)})?")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows are series, columns categories. One unnamed row (`series == ()`) is a chart whose marks are its categories."""

    type: str  # a key of CHART_TYPES
    categories: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]  # [rows][categories], in last places of `number`
    number: NumberFormat = NumberFormat()
    title: str = ""
    by_position: bool = False  # categories are places ("first", "second"): not printed, not repeated in each row

    @property
    def single(self) -> bool:
        return not self.series

    @property
    def marks(self) -> tuple[str, ...]:
        """What colours (and the legend) stand for: the series, or the categories of a chart of one series."""
        return self.series or self.categories

    def digest(self) -> int:
        """64 bits of the content alone (names and numbers), whatever the chart's type and style: decides the split."""
        content = repr((self.categories, self.series, self.values, self.number.decimals))
        return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big")


def facts(table: Table, rows: tuple[int, ...] | None = None) -> list[str]:
    """The table in words, one entry a step; `rows` picks some (series, or categories where there is one series)."""
    number = table.number
    if table.single:
        pairs = list(zip(table.categories, table.values[0], strict=True))
        return [f"{name} {number.text(value)}" for name, value in (pairs if rows is None else [pairs[i] for i in rows])]
    return [row_fact(table, i) for i in (range(len(table.series)) if rows is None else rows)]


def row_fact(table: Table, row: int) -> str:
    texts = [table.number.text(value) for value in table.values[row]]
    if table.by_position:
        return f"{table.series[row]}: {' '.join(texts)}"
    return f"{table.series[row]}: " + ", ".join(f"{name} {text}" for name, text in zip(table.categories, texts, strict=True))


def column_fact(table: Table, column: int, rows: tuple[int, ...]) -> str:
    """One category over some series: `second: red 7, blue 9`."""
    cells = (f"{table.series[i]} {table.number.text(table.values[i][column])}" for i in rows)
    return f"{table.categories[column]}: {', '.join(cells)}"


def head(table: Table) -> str:
    return f"{CHART_TYPES[table.type].chart}: " + (f"{table.title} | " if table.title else "")


def table_text(table: Table) -> str:
    """The whole table in words, chart type (and title, where there is one to read) first."""
    return head(table) + "; ".join(facts(table))
