"""Calls of a calculator in rationales: `7 - 3 = <<7-3>>4`, an option of the profile (`calls: true`), off by default.

A model that was trained on these leaves its arithmetic to `eval`'s calculator arm, which works out what stands between the
brackets and puts the result after them. For every other purpose a call is as if it were not there.
"""

from __future__ import annotations

import re
from dataclasses import replace

from datasets.charts.asker import Question

CALL = re.compile(r"<<[^<>\n]{0,200}>>")
_ARITHMETIC = re.compile(r"[^ ;]+(?: [-+/] [^ ;]+)+(?= = )")


def with_calls(question: Question) -> Question:
    """Each calculation of the rationale with its call before the result; a ratio that is rounded asks for its places."""
    return replace(question, rationale="; ".join(_called(step, question.form) for step in question.rationale.split("; ")))


def _called(step: str, form: str) -> str:
    match = _ARITHMETIC.match(step)
    if match is None:
        return step
    result, expression = step[match.end() + len(" = ") :], match.group().replace(" ", "")
    if form == "ratio" and "." in result:
        expression = f"round({expression}, 1)"
    return f"{match.group()} = <<{expression}>>{result}"


def without_calls(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text as if no call were there, and (place in it, length) of each that was."""
    found, gone = [], 0
    for match in CALL.finditer(text):
        found.append((match.start() - gone, len(match.group())))
        gone += len(match.group())
    return CALL.sub("", text), found


def place_before(place: int, calls: list[tuple[int, int]], *, end: bool = False) -> int:
    """A place in the text without calls → in the text with them; the `end` of a stretch lies before a call that follows it."""
    return place + sum(length for at, length in calls if (at < place if end else at <= place))
