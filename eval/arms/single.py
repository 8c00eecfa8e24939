"""Rationale, then answer, in one free-running pass."""

from __future__ import annotations

from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.models import Request
from eval.tasks import Item


def single(item: Item, asking: Asking) -> Steps:
    (written,) = yield reasoning(item, asking)
    rationale, answer = asking.prompter.convention.split(written.text)
    return Answered(asking.answer(answer), written.text, rationale)


def reasoning(item: Item, asking: Asking) -> Request:
    """The request for a rationale with its answer."""
    stop = [s for s in asking.prompter.convention.stop if s != "\n"]  # a rationale may have lines
    return asking.request(item, asking.prompter.ask(item, reason=True), asking.rationale_tokens + asking.answer_tokens, stop)
