"""A rationale as steps. Those of charts are parted by `;` or a line's end, others by lines and sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CHART_STEP = re.compile(r"[^;\n]+")
_SENTENCE = re.compile(r"[^\n]+?(?:[.!?](?=\s)|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of a rationale without blanks at its ends."""

    text: str
    start: int
    end: int


def steps_of(rationale: str, *, of_chart: bool) -> list[Step]:
    """The steps that have a letter or digit, in order."""
    found = []
    for match in (_CHART_STEP if of_chart else _SENTENCE).finditer(rationale):
        text = match.group().strip()
        if any(map(str.isalnum, text)):
            start = match.start() + match.group().index(text)
            found.append(Step(text, start, start + len(text)))
    return found


def with_step(rationale: str, step: Step, text: str) -> str:
    """The rationale with `text` in a step's place."""
    return rationale[: step.start] + text + rationale[step.end :]


def up_to(rationale: str, steps: list[Step], count: int) -> str:
    """The first `count` steps; of all of them, the whole rationale."""
    if count == len(steps):
        return rationale
    return rationale[: steps[count - 1].end] if count else ""
