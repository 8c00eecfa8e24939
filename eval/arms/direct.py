"""The answer at once."""

from __future__ import annotations

from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.tasks import Item


def direct(item: Item, asking: Asking) -> Steps:
    prompter = asking.prompter
    (written,) = yield asking.request(item, prompter.ask(item), asking.answer_tokens, prompter.convention.stop)
    return Answered(asking.answer(written.text), written.text)
