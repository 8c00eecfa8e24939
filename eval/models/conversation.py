"""Samples as other models take them: a conversation, or pictures and text in a row.

What is given is the user's, pictures too, and what is learnt is the model's (an example's answer, a rationale it wrote). A
sample that ends with a text of the model's is one that it goes on with in the middle of its turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vlm.sample import Image, Sample, Segment, Text

Part = str | Image
USER, ASSISTANT = "user", "assistant"


@dataclass(slots=True)
class Turn:
    """`parts` in their order, adjacent texts joined."""

    role: str
    parts: list[Part] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


def conversation(sample: Sample) -> list[Turn]:
    """Turns by turns, the user first. Raises `ValueError` naming the sample for what no other model takes (a clip)."""
    turns: list[Turn] = []
    for segment in sample.segments:
        role = ASSISTANT if isinstance(segment, Text) and segment.learn else USER
        if not turns or turns[-1].role != role:
            turns.append(Turn(role))
        turns[-1].parts = _joined([*turns[-1].parts, _part(segment, sample.key)])
    if not turns or turns[0].role != USER:
        raise ValueError(f"item {sample.key}: a conversation that does not begin with the user")
    return turns


def in_a_row(sample: Sample) -> list[Part]:
    """Raises as `conversation`."""
    return _joined(_part(segment, sample.key) for segment in sample.segments)


def _part(segment: Segment, key: str) -> Part:
    if isinstance(segment, Image):
        return segment
    if isinstance(segment, Text) and not segment.special:
        return segment.text
    raise ValueError(f"item {key}: a {type(segment).__name__.lower()} that only models of ours read")


def _joined(parts: Iterable[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined
