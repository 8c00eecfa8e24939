"""A mistake in one step of a rationale: one number, name or sign becomes another.

In a chart's rationale it is one that the table decides (`datasets.charts.steps`), and the changed step is wrong by the table or
by its own calculation. Elsewhere a step that names a choice names another one, else its last number changes; a rationale that
has neither gets no mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from datasets.charts.rng import Draw
from datasets.charts.steps import StepCheck, check_steps
from datasets.charts.table import Table
from eval.faithfulness.rationale import Step, steps_of, with_step
from eval.tasks import Item

_NUMBER = re.compile(r"(?<![\w.])[$€£]?\d{1,15}(?:,\d{3})*(?:\.\d{1,6})?(?!\w*\d)")
_DIGITS = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SIGNS = {"<": ">", ">": "<", "rising": "falling", "falling": "rising", "flat": "rising", "mixed": "flat"}
TRIES = 8  # replacements looked at for one that makes the step wrong


@dataclass(frozen=True, slots=True)
class Mistake:
    """Step `index` (from 0) reads `text` now."""

    index: int
    text: str
    rationale: str  # all of it, the other steps as they were


def mistake(rationale: str, item: Item, draw: Draw, *, last: bool) -> Mistake | None:
    """In any step, or in the last one that can be made wrong; `None` where none can."""
    steps = steps_of(rationale, of_chart=isinstance(item.table, Table))
    order = list(range(len(steps)))[::-1] if last else draw.some(range(len(steps)), len(steps))
    for index in order:
        for text in _wrong(rationale, steps[index], item, draw):
            return Mistake(index, text, with_step(rationale, steps[index], text))
    return None


def _wrong(rationale: str, step: Step, item: Item, draw: Draw) -> Iterator[str]:
    """Ways in which a step can be made wrong."""
    if isinstance(item.table, Table):
        yield from _wrong_of_chart(rationale, step, item.table, draw)
    else:
        yield from _wrong_in_words(step.text, item.choices or {}, draw)


def _wrong_of_chart(rationale: str, step: Step, table: Table, draw: Draw) -> Iterator[str]:
    """What the step says last is changed first: it is mostly the result."""
    check = _check_at(rationale, table, step.start)
    for start, end, _ in reversed(check.spans if check else ()):
        before = rationale[start:end]
        for text in _others(before, table, draw):
            changed = with_step(rationale, Step(before, start, end), text)
            now = _check_at(changed, table, step.start)
            if text != before and now is not None and now.correct is False:
                yield now.text


def _check_at(rationale: str, table: Table, start: int) -> StepCheck | None:
    return next((check for check in check_steps(rationale, table) if check.start == start), None)


def _others(text: str, table: Table, draw: Draw) -> list[str]:
    """What may stand in place of a sign, a name or a number of a chart."""
    if text in _SIGNS:
        return [_SIGNS[text]]
    number = table.number.parse(text)
    names = next((names for names in (table.categories, table.series) if text in names), None)
    if names is None and number is not None:
        top = max(number, Fraction(max(map(max, table.values))))
        drawn = [other_number(text, draw) for _ in range(TRIES)]
        shown = [text for text in drawn if (table.number.parse(text) or 0) <= top]
        numbers = shown or drawn  # rather such as the chart could show
    else:
        numbers = []
    others = [name for name in names or table.marks if name != text]
    return numbers + draw.some(others, len(others))


def other_number(text: str, draw: Draw) -> str:
    """A number of the same places, a fifth to four fifths larger or smaller, by one in its last place at least."""
    match = _DIGITS.search(text)
    assert match is not None  # every caller's text is a number
    digits = match.group()
    places = len(digits.partition(".")[2])
    units = int(digits.replace(",", "").replace(".", ""))
    change = max(1, round(units * draw.uniform(0.2, 0.8)))
    units += -change if units > change and draw.chance(0.5) else change
    whole, part = divmod(units, 10**places)
    shown = (f"{whole:,}" if "," in digits else str(whole)) + (f".{part:0{places}d}" if places else "")
    return text[: match.start()] + shown + text[match.end() :]


def _wrong_in_words(text: str, choices: Mapping[str, str], draw: Draw) -> Iterator[str]:
    named = [choice for choice in choices.values() if len(choice) > 1 and _word(choice).search(text)]
    if named and (others := _not_named(choices, named)):
        other = draw.pick(others)
        yield _word(named[-1]).sub(lambda _: other, text)
    if numbers := list(_NUMBER.finditer(text)):
        at = numbers[-1]
        yield text[: at.start()] + other_number(at.group(), draw) + text[at.end() :]


def _not_named(choices: Mapping[str, str], named: Sequence[str]) -> list[str]:
    return [choice for choice in choices.values() if choice not in named]


def _word(choice: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(choice)}(?!\w)", re.IGNORECASE)
