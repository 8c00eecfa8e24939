"""Least-to-most prompting (Zhou et al., 2023) for chart questions: smaller questions first, each answered with the answers
before it in view, the question itself last.

Questions of the chart generator's forms about two marks are taken apart by rule, into questions for the value of each, in words
that our models know from training; for all others the model is asked which smaller questions come first, one a line.
"""

from __future__ import annotations

import dataclasses
import re
from functools import cache

from datasets.charts.phrasing import PHRASINGS
from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.tasks import Item

MAX_PARTS = 6
MAX_QUESTION = 300  # characters of one that a form may fit
DECOMPOSE = 'To answer "{question}", which smaller questions come first? Write one a line.'
PART = PHRASINGS["value"][2]  # every profile asks so
_THRESHOLD = re.compile(r"(?!\d{4}$)[$]?[\d,.]+[%KMB]?(?: tenths)?")  # a number to compare with, not a mark; a year may be one
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s*")


def least_to_most(item: Item, asking: Asking) -> Steps:
    """The record gets the `parts`: each smaller question with its answer, and what took the question apart (`decomposed`)."""
    parts, by = by_rule(item.question), "rule"
    if not parts:
        by, asked = "model", dataclasses.replace(item, question=DECOMPOSE.format(question=item.question), choices=None)
        (written,) = yield asking.request(item, asking.prompter.ask(asked), asking.rationale_tokens)
        parts = by_lines(written.text, item.question)
    answered: list[tuple[str, str]] = []
    for part in parts:
        smaller = dataclasses.replace(item, question=part, choices=None)
        sample = asking.prompter.ask(smaller, before=answered)
        (written,) = yield asking.request(
            item, sample, asking.answer_tokens, asking.prompter.convention.stop, len(answered) + 1
        )
        answered.append((part, asking.answer(written.text) or ""))
    last = asking.prompter.ask(item, before=answered)
    (written,) = yield asking.request(item, last, asking.answer_tokens, asking.prompter.convention.stop, len(answered) + 1)
    rationale = "; ".join(f"{question} {answer}" for question, answer in answered) or None
    extra = {"parts": [list(part) for part in answered], "decomposed": by}
    return Answered(asking.answer(written.text), written.text, rationale, extra)


def by_rule(question: str) -> list[str]:
    """`What is the sum of red and blue?` → `What value does red have?`, `What value does blue have?`; [] where no form fits."""
    if len(question) > MAX_QUESTION:
        return []
    match = next((m for form in _forms() if (m := form.fullmatch(question.strip()))), None)
    if match is None:
        return []
    found = {"p": "", "u": "", **{key: text or "" for key, text in match.groupdict().items()}}
    names = [name for name in (found["a"], found["b"]) if not _THRESHOLD.fullmatch(name)]
    parts = [PART.format(p=found["p"], a=name, u=found["u"]) for name in names]
    return [part[0].upper() + part[1:] for part in parts]


@cache
def _forms() -> tuple[re.Pattern[str], ...]:
    """The wordings about two marks, as patterns."""
    wordings = (w for form in PHRASINGS.values() for w in form if "{a}" in w and "{b}" in w)
    return tuple(re.compile(_pattern(wording), re.IGNORECASE) for wording in wordings)


def _pattern(wording: str) -> str:
    fields = {"p": "(?P<p>[^,?]+?, )?", "u": "(?P<u> in tenths)?", "r": "(?: to one decimal)?", "a": "(?P<a>[^,?]+?)"}
    fields["b"] = fields["a"].replace("a", "b", 1)
    parts = re.split(r"\{(\w+)\}", wording)
    return "".join(fields.get(part, r"\w+") if i % 2 else re.escape(part) for i, part in enumerate(parts))


def by_lines(written: str, question: str) -> list[str]:
    """The questions in a list that a model wrote: bullets and numbers off, repeats and the question itself left out."""
    lines = (_BULLET.sub("", line).strip() for line in written[:10_000].splitlines())
    found = dict.fromkeys(line for line in lines if line.endswith("?") and line.lower() != question.strip().lower())
    return list(found)[:MAX_PARTS]
