"""A chart's rationale in other words: what it says is the same, in another order.

Facts that stand side by side change places, rows list their pairs backwards, `a + b = c` becomes `b + a = c`, and `7 > 3`
becomes `3 < 7`. Every step is judged by the table as before, or the rationale is left alone. There is no such rule for other
tasks' free text.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby

from datasets.charts.steps import StepCheck, check_steps
from datasets.charts.table import Table

_SUM = re.compile(r"([^ =]+(?: \+ [^ =]+)+) = ([^ ]+)")
_COMPARED = re.compile(r"([^ ]+) ([<>]) ([^ ]+)")
_BEYOND = re.compile(r"((?:above|below) [^ :]+): (.+)")
_TURNED = {"<": ">", ">": "<"}


def paraphrase(rationale: str, table: Table) -> str | None:
    """`None` where no rule changes anything, or where one would change what is said."""
    checks = check_steps(rationale, table)
    steps: list[str] = []
    for fact, run in groupby(checks, key=lambda check: _is_fact(check, table)):
        texts = [_reworded(check.text, table) for check in run]
        steps += reversed(texts) if fact else texts
    said = "; ".join(steps)
    return None if said == "; ".join(check.text for check in checks) or not _same(checks, said, table) else said


def _is_fact(check: StepCheck, table: Table) -> bool:
    """`NAME VALUE` or a series' row: facts that no later step refers to by place."""
    if check.kind != "fact" or "+" in check.text:
        return False
    name, colon, _ = check.text.partition(": ")
    return name in table.series if colon else table.single and check.text.rpartition(" ")[0] in table.categories


def _reworded(text: str, table: Table) -> str:
    if match := _SUM.fullmatch(text):
        return f"{' + '.join(reversed(match[1].split(' + ')))} = {match[2]}"
    if match := _COMPARED.fullmatch(text):
        return f"{match[3]} {_TURNED[match[2]]} {match[1]}"
    if match := _BEYOND.fullmatch(text):
        return f"{match[1]}: {_backwards(match[2])}"
    name, colon, rest = text.partition(": ")
    return f"{name}: {_backwards(rest)}" if colon and not table.single else text


def _backwards(names: str) -> str:
    return ", ".join(reversed(names.split(", ")))


def _same(checks: list[StepCheck], said: str, table: Table) -> bool:
    return Counter(check.correct for check in checks) == Counter(check.correct for check in check_steps(said, table))
