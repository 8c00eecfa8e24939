"""MMMU's scoring of open questions: the gold string in a key phrase of the output, or a number equal to 2 decimals.

The phrases are what follows the last "is", "so", "answer", … of each line; numbers are taken from them too. Quirk kept: the
output is lower-cased before it is split at a full stop followed by a capital, so it is split at line ends only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = frozenset(":,.!?;'")
NUMBERS = (  # the original's, written so that a long run of digits is read once
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+"),
    re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def score(prediction: str, references: Sequence[str] | None, options: Mapping) -> float:
    """1.0 when any reference is met, else 0.0. Raises `ValueError` without references."""
    if not references:
        raise ValueError("an open question needs `references`, and a multiple-choice one `choices`")
    gold = {form for reference in references for form in _normalize(reference)}
    phrases = _phrases(prediction)
    numbers = [number for phrase in phrases for pattern in NUMBERS for number in pattern.findall(phrase)]
    found = {form for text in (*phrases, *numbers) for form in _normalize(text)}
    return float(any(_met(form, gold) for form in found))


def _met(form: str | float, gold: set[str | float]) -> bool:
    if isinstance(form, float):
        return form in gold
    return any(isinstance(answer, str) and answer in form for answer in gold)


def _phrases(response: str) -> list[str]:
    """The shortest tail after an indicator, line by line; the whole response when no line has one."""
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        indicators = (*INDICATORS, "=") if number == len(lines) else INDICATORS
        tails = [line.rsplit(indicator, 1)[1].strip() for indicator in indicators if indicator in line]
        shortest = _shortest(tails)
        if shortest and shortest not in TRIVIAL:
            found.append(shortest)
    return found or [response]


def _shortest(tails: list[str]) -> str:
    """As the original keeps it: an empty tail is replaced by whatever tail comes next."""
    kept = ""
    for tail in tails:
        if not kept or len(tail) < len(kept):
            kept = tail
    return kept


def _normalize(text: str) -> list[str | float]:
    """A number to 2 decimals, else the lower-cased string; one character only with a blank at either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
