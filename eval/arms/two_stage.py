"""Two-stage chain of thought (Zhang et al., 2023): picture and question → rationale; these and the rationale → answer.

Unlike in one pass, a rationale that does not end within its room still leads to an answer.
"""

from __future__ import annotations

from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.tasks import Item


def two_stage(item: Item, asking: Asking) -> Steps:
    prompter = asking.prompter
    stop = prompter.convention.rationale_stop
    (first,) = yield asking.request(item, prompter.ask(item, reason=True), asking.rationale_tokens, stop)
    rationale = prompter.convention.split(first.text)[0]
    last = prompter.conclude(item, rationale)
    (second,) = yield asking.request(item, last, asking.answer_tokens, prompter.convention.stop, step=1)
    extra = {"rationale_finish": first.finish}
    return Answered(asking.answer(second.text), second.text, rationale, extra)
