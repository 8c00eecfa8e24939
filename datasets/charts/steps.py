"""Judges a rationale against the table, step by step and span by span: exact gold for faithfulness and for hallucinations.

The text may be a model's own, free-running and wrong, or garbage: nothing here raises. Steps are parted by `;` or a line's end.

    fact         red 7 · red: 3 7 · Exports: 2019 3.4, 2020 5.6 · second: red 7, blue 9 · 3 bars · red rising
                 · no purple · purple is there · second is blue · 7 is blue
    comparison   7 > 3 · highest is green · above 5: red, green
    arithmetic   7 - 3 = 4 · 7 + 3 + 2 = 12 · 12 / 3 = 4 · count 2 (of the names in the step before)

Every name and number of a step that the table decides is a span of its own. An operand is right when the table has it or a
right step before computed it; a result is right when the calculation is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from datasets.charts.calls import place_before, without_calls
from datasets.charts.step_parsers import PARSERS, Judge, Kind, Span, read_head
from datasets.charts.table import Table

_STEP = re.compile(r"[^;\n]+")


@dataclass(frozen=True, slots=True)
class StepCheck:
    """`correct` is `None` where the table decides nothing (kind `unparsed`, or a comparison with a number from outside)."""

    text: str
    start: int  # characters in the whole rationale
    end: int
    kind: Kind
    correct: bool | None
    spans: tuple[Span, ...] = ()  # (start, end, correct) of the names and numbers inside, in order


def check_steps(rationale: str, table: Table) -> list[StepCheck]:
    """Each non-empty step of `rationale`, judged. Never raises, whatever the text. Calls of a calculator are passed over."""
    rationale, calls = without_calls(rationale)
    judge, checks = Judge(table), []
    for match in _STEP.finditer(rationale):
        text = match.group().strip()
        if text:
            start = match.start() + match.group().index(text)
            checks.append(_check(judge, text, start))
    return [_placed(check, calls) for check in checks] if calls else checks


def _placed(check: StepCheck, calls: list[tuple[int, int]]) -> StepCheck:
    """The same step in the text with its calls."""
    spans = tuple((place_before(a, calls), place_before(b, calls, end=True), right) for a, b, right in check.spans)
    start, end = place_before(check.start, calls), place_before(check.end, calls, end=True)
    return replace(check, start=start, end=end, spans=spans)


def judged_spans(rationale: str, table: Table) -> list[Span]:
    """(start, end, correct) of every name and number that the table decides, in order and without overlap."""
    return [span for check in check_steps(rationale, table) for span in check.spans]


def _check(judge: Judge, text: str, start: int) -> StepCheck:
    judge.spans = []
    at, head_right = read_head(judge, text, start)
    for parser in PARSERS:
        marked = len(judge.spans)
        result = parser(judge, text[at - start :], at)
        if result is not None:
            kind, correct = result
            correct = correct if correct is None else correct and head_right
            return StepCheck(text, start, start + len(text), kind, correct, tuple(sorted(judge.spans)))
        del judge.spans[marked:]
    return StepCheck(text, start, start + len(text), "unparsed", None)
