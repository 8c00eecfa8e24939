"""Rationale first, with an exact calculator in it: what the model writes as `<<12.5-8.2>>` is worked out, the result put after
it, and the model goes on. What is no expression is left as it stands: the model then writes the result itself, and it is
counted.
"""

from __future__ import annotations

from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.arms.single import reasoning
from eval.calculator import CLOSE, calculate, open_call
from eval.models import Completion
from eval.tasks import Item

MAX_CALLS = 16  # of one rationale


def calculator(item: Item, asking: Asking) -> Steps:
    """The record gets all `calls`, each with its result (`None`: no expression)."""
    request = reasoning(item, asking)
    stop, room = (*request.stop, CLOSE), request.max_new_tokens
    written, calls = "", []
    while True:
        sample = asking.prompter.go_on(item, written)
        (piece,) = yield asking.request(item, sample, room, stop, step=len(calls))
        written, room = written + piece.text, room - _tokens(piece)
        call = open_call(written) if piece.finish == "stop" else None
        if call is None:
            break
        result = calculate(call)
        calls.append({"call": call, "result": result})
        written += CLOSE + (result or "")
        if room <= 0 or len(calls) == MAX_CALLS:
            break
    rationale, answer = asking.prompter.convention.split(written)
    return Answered(asking.answer(answer), written, rationale, {"calls": calls})


def _tokens(piece: Completion) -> int:
    """At least 1; about a token every four characters where the model does not tell."""
    return max(1, len(piece.tokens) or len(piece.text) // 4)
