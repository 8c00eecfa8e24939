"""One parser for each form of a rationale's step (`steps.py` lists them).

Each marks the spans that it can judge and says whether the step is right, or gives `None` for a text that is not of its form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from datasets.charts.content import trend
from datasets.charts.kinds import CHART_TYPES, CURVES
from datasets.charts.table import POSITIONS, Table

Kind = Literal["fact", "arithmetic", "comparison", "unparsed"]
Span = tuple[int, int, bool]
_HIGH = {words.superlative[0] for words in CHART_TYPES.values()}
_LOW = {words.superlative[1] for words in CHART_TYPES.values()}
_COUNTED = re.compile(r"([0-9]{1,4}) ([a-z]+)s")
_BEYOND = re.compile(r"(above|below) ([^ :]+): (.+)")
_TREND = re.compile(r"(.+) (rising|falling|flat|mixed)")
_IS = re.compile(r"(.+) is (.+)")
_NO = re.compile(r"no (.+)")
_COMPARED = re.compile(r"([^ ]+) ([<>=]) ([^ ]+)")
_TALLY = re.compile(r"count ([0-9]{1,4})")
_HEAD = re.compile(rf"({'|'.join(words.chart for words in CHART_TYPES.values())}): ")


@dataclass(slots=True)
class Judge:
    """What earlier steps have said: the row or column in view, numbers computed, how many names were listed."""

    table: Table
    row: int | None = None
    column: int | None = None
    listed: int | None = None
    computed: set[Fraction] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)

    def mark(self, match_start: int, text: str, correct: bool) -> bool:
        self.spans.append((match_start, match_start + len(text), correct))
        return correct

    def view(self) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
        """Names and values that the present step speaks of."""
        table = self.table
        if table.single:
            return table.categories, table.values[0]
        if self.column is not None:
            return table.series, tuple(row[self.column] for row in table.values)
        return None if self.row is None else (table.categories, table.values[self.row])

    def known(self, number: Fraction) -> bool:
        return number in self.computed or any(number == value for row in self.table.values for value in row)


Result = tuple[Kind, bool | None] | None
Parser = Callable[[Judge, str, int], Result]


def read_head(judge: Judge, text: str, start: int) -> tuple[int, bool]:
    """Chart type and title at the head of a whole table: where the rest starts, and whether they are right."""
    if (match := _HEAD.match(text)) is None:
        return start, True
    right = judge.mark(start, match[1], match[1] == CHART_TYPES[judge.table.type].chart)
    at = start + match.end()
    title, bar, _ = text[match.end() :].partition(" | ")
    if bar:
        right &= judge.mark(at, title, title == judge.table.title) if title else not judge.table.title
        at += len(title) + len(bar)
    return at, right


def _counted(judge: Judge, text: str, at: int) -> Result:
    if (match := _COUNTED.fullmatch(text)) is None:
        return None
    words, table = CHART_TYPES[judge.table.type], judge.table
    truth = {words.item: len(table.marks), words.group: len(table.categories)}
    if not match[2] or match[2] not in {w for t in CHART_TYPES.values() for w in (t.item, t.group)}:
        return None
    return "fact", judge.mark(at, match[1], truth.get(match[2]) == int(match[1]))


def _beyond(judge: Judge, text: str, at: int) -> Result:
    match, view = _BEYOND.fullmatch(text), judge.view()
    limit = match and judge.table.number.parse(match[2])
    if match is None or limit is None or view is None:
        return None
    true = {name for name, v in zip(*view, strict=True) if (v > limit if match[1] == "above" else v < limit)}
    names = [] if match[3] == "none" else match[3].split(", ")
    judge.listed = len(names)
    if not names:
        return "comparison", judge.mark(at + match.start(3), match[3], not true)
    place = at + match.start(3)
    for name in names:
        judge.mark(place, name, name in true)
        place += len(name) + 2
    return "comparison", len(names) == len(true) and set(names) == true


def _tally(judge: Judge, text: str, at: int) -> Result:
    if (match := _TALLY.fullmatch(text)) is None:
        return None
    if judge.listed is None:
        return "arithmetic", None
    return "arithmetic", judge.mark(at + match.start(1), match[1], int(match[1]) == judge.listed)


def _trend(judge: Judge, text: str, at: int) -> Result:
    match, table = _TREND.fullmatch(text), judge.table
    if match is None or table.type not in CURVES:
        return None
    there = judge.mark(at, match[1], match[1] in table.series)
    truth = trend(table.values[table.series.index(match[1])]) if there else None
    return "fact", judge.mark(at + match.start(2), match[2], match[2] == truth)


def _no(judge: Judge, text: str, at: int) -> Result:
    if (match := _NO.fullmatch(text)) is None:
        return None
    return "fact", judge.mark(at + match.start(1), match[1], match[1] not in judge.table.marks)


def _is(judge: Judge, text: str, at: int) -> Result:
    """`highest is NAME`, `second is NAME`, `7 is NAME`, `NAME is there`."""
    if (match := _IS.fullmatch(text)) is None:
        return None
    subject, name, place = match[1], match[2], at + match.start(2)
    if name == "there":
        return "fact", judge.mark(at, subject, subject in judge.table.marks)
    if (view := judge.view()) is None:
        return None
    names, values = view
    value = values[names.index(name)] if name in names else None
    if subject in _HIGH or subject in _LOW:
        most = max(values) if subject in _HIGH else min(values)
        return "comparison", judge.mark(place, name, value == most)
    if judge.table.single and subject in POSITIONS:
        column = POSITIONS.index(subject)
        return "fact", judge.mark(place, name, column < len(names) and names[column] == name)
    if (number := judge.table.number.parse(subject)) is None:
        return None
    judge.mark(at, subject, number in values)
    return "fact", judge.mark(place, name, value is not None and value == number)


def _compared(judge: Judge, text: str, at: int) -> Result:
    """The first number is the table's; the second may be a threshold from the question, which the table cannot judge."""
    if (match := _COMPARED.fullmatch(text)) is None:
        return None
    first, second = (judge.table.number.parse(match[i]) for i in (1, 3))
    if first is None or second is None:
        return None
    grounded = judge.mark(at, match[1], judge.known(first))
    relation = {"<": first < second, ">": first > second, "=": first == second}[match[2]]
    judge.mark(at + match.start(2), match[2], relation)
    if judge.known(second):
        judge.mark(at + match.start(3), match[3], True)
    return "comparison", grounded and relation


def _arithmetic(judge: Judge, text: str, at: int) -> Result:
    """Sums, differences and quotients. A quotient may be rounded in its last printed place; all else is exact."""
    tokens = [(m.group(), at + m.start()) for m in re.finditer(r"[^ ]+", text)]
    if len(tokens) < 5 or len(tokens) % 2 == 0 or tokens[-2][0] != "=":
        return None
    operators, number = [t for t, _ in tokens[1:-2:2]], judge.table.number
    amounts = [amount for t, _ in tokens[::2] if (amount := number.parse(t)) is not None]
    if len(amounts) < len(operators) + 2 or set(operators) - set("+-/") or ("/" in operators and len(operators) > 1):
        return None
    grounded = True
    for (token, place), amount in list(zip(tokens[::2], amounts, strict=True))[:-1]:
        if operators == ["/"] and place != tokens[0][1] and _is_count(judge, token):
            continue
        grounded &= judge.mark(place, token, judge.known(amount))
    right = judge.mark(tokens[-1][1], tokens[-1][0], _calculated(judge, operators, amounts, tokens[-1][0]))
    if right and grounded:
        judge.computed.add(amounts[-1])
    return "arithmetic", right and grounded


def _is_count(judge: Judge, token: str) -> bool:
    """May `token` be the number of things that an average divides by?"""
    return token.isascii() and token.isdigit() and 2 <= int(token[:4]) <= len(judge.table.categories) + len(judge.table.series)


def _calculated(judge: Judge, operators: list[str], amounts: list[Fraction], result: str) -> bool:
    if operators == ["/"]:
        return _divided(judge, amounts, result)
    total = amounts[0]
    for operator, amount in zip(operators, amounts[1:-1], strict=True):
        total = total + amount if operator == "+" else total - amount
    return total == amounts[-1]


def _divided(judge: Judge, amounts: list[Fraction], result: str) -> bool:
    """A ratio of two values or a mean over a count: the quotient of the numbers as printed, rounded as the result is."""
    if amounts[1] == 0:
        return False
    unit = 10**judge.table.number.decimals
    places = len("".join(re.findall(r"\.([0-9]+)", result)))
    return abs(amounts[0] / amounts[1] * unit - amounts[2]) <= Fraction(unit, 2 * 10**places)


def _fact(judge: Judge, text: str, at: int) -> Result:
    """`NAME VALUE`, or a row or column: `NAME: …`."""
    name, colon, rest = text.partition(": ")
    table = judge.table
    if not colon:
        return _pair(judge, text, at, table.categories, table.values[0]) if table.single else None
    if table.single:
        return None
    place, column = at + len(name) + 2, name in table.categories
    judge.row = table.series.index(name) if name in table.series else None
    judge.column = table.categories.index(name) if column and judge.row is None else None
    there = judge.mark(at, name, judge.row is not None or column)
    if table.by_position and not column:
        return _numbers(judge, rest, place, there)
    names, values = judge.view() or ((), ())
    right, pairs = there, rest.split(", ")
    for pair in pairs:
        result = _pair(judge, pair, place, names, values)
        if result is None:
            return None
        right &= bool(result[1])
        place += len(pair) + 2
    return "fact", right and (column or len(pairs) == len(names))


def _pair(judge: Judge, text: str, at: int, names: tuple[str, ...], values: tuple[int, ...]) -> Result:
    name, space, written = text.rpartition(" ")
    if not space or (number := judge.table.number.parse(written)) is None:
        return None
    there = judge.mark(at, name, name in names)
    right = there and values[names.index(name)] == number
    return "fact", judge.mark(at + len(name) + 1, written, right)


def _numbers(judge: Judge, text: str, at: int, there: bool) -> Result:
    """The values of one series in order, without names."""
    values = judge.table.values[judge.row] if there and judge.row is not None else ()
    right, written = there, [(m.group(), at + m.start()) for m in re.finditer(r"[^ ]+", text)]
    for i, (token, place) in enumerate(written):
        number = judge.table.number.parse(token)
        if number is None:
            return None
        right &= judge.mark(place, token, i < len(values) and values[i] == number)
    return "fact", right and len(written) == len(values)


PARSERS: tuple[Parser, ...] = (_counted, _beyond, _tally, _trend, _no, _is, _compared, _arithmetic, _fact)
