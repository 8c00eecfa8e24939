"""Conversation rows (LLaVA, Liu et al., 2023): messages of `from` and `value`, with `<image>` where a picture stands.

Each question with its answer becomes a `vlm.prompt.turn`, the answer learnt. Placeholders at the beginning or the end of a
question put their pictures before it, as LLaVA does; where there are some within it, those stay in place. Pictures without any
placeholder open the conversation. A `system` message is given text before all.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets.convert.common import filled
from vlm.prompt import turn
from vlm.sample import Image, Segment, Text

PLACEHOLDER = "<image>"
ASKERS, ANSWERERS = ("human", "user"), ("gpt", "assistant")


def conversation(messages: object, images: Sequence[Image]) -> tuple[Segment, ...]:
    """Segments of one conversation. Raises `ValueError` with a short reason for one that cannot be used.

    What is said before the first question, and a last question without an answer, is left out.
    """
    system, pairs = _pairs(messages)
    wanted = sum(question.count(PLACEHOLDER) for question, _ in pairs)
    if wanted not in (0, len(images)):
        raise ValueError("placeholders and images disagree")
    waiting = list(images)
    segments: list[Segment] = [Text(f"{system}\n", learn=False)] if system else []
    if not wanted:
        segments += images
    for question, answer in pairs:
        segments += _turn(question, answer, waiting)
    return tuple(segments)


def _turn(question: str, answer: str, waiting: list[Image]) -> list[Segment]:
    """One turn with its pictures, taken from the front of `waiting`."""
    before, text = _split(question)
    if not text:
        raise ValueError("no question")
    given, learnt = turn(text, answer=answer)
    assert isinstance(given, Text)
    segments: list[Segment] = [waiting.pop(0) for _ in range(before)]
    for number, part in enumerate(given.text.split(PLACEHOLDER)):
        segments += [waiting.pop(0)] if number else []
        segments += [Text(part, learn=False)] if part else []
    return [*segments, learnt]


def _split(question: str) -> tuple[int, str]:
    """(pictures before the question, its text, in which further placeholders stay in place)."""
    parts = [part.strip() for part in question.split(PLACEHOLDER)]
    told = [n for n, part in enumerate(parts) if part]
    if len(told) <= 1:  # none within the text
        return len(parts) - 1, "".join(parts)
    return told[0], PLACEHOLDER.join(question.split(PLACEHOLDER)[told[0] :]).strip()


def _pairs(messages: object) -> tuple[str | None, list[tuple[str, str]]]:
    """(system message, [(question, answer), …])."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("no conversation")
    said = [(m.get("from"), filled(m.get("value"))) for m in messages]
    if any(text is None for _, text in said):
        raise ValueError("an empty message")
    system = said.pop(0)[1] if said and said[0][0] == "system" else None
    while said and said[0][0] in ANSWERERS:
        said.pop(0)
    if said and said[-1][0] in ASKERS:
        said.pop()
    if not said:
        raise ValueError("no question with an answer")
    if any(who not in (ANSWERERS if n % 2 else ASKERS) for n, (who, _) in enumerate(said)):
        raise ValueError("turns do not alternate")
    return system, [(str(q), str(a)) for (_, q), (_, a) in zip(said[::2], said[1::2], strict=True)]
