"""From an item to a prompt, and from what the model wrote to an answer: one place for every arm of a comparison.

`none` answers directly; `single` writes a rationale first and answers after it, in one free-running pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.tasks import Item
from vlm import prompt
from vlm.sample import Image, Sample

COT_MODES = ("none", "single")
RATIONALE_TOKENS = 160  # room for a rationale, beside the answer's own


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of asking: direct or rationale first, with the pictures as they are or blanked."""

    cot: str = "none"
    blank: bool = False

    def __post_init__(self) -> None:
        if self.cot not in COT_MODES:
            raise ValueError(f"cot {self.cot!r}: one of {', '.join(COT_MODES)}")

    def max_new_tokens(self, answer_tokens: int) -> int:
        return answer_tokens + (RATIONALE_TOKENS if self.cot == "single" else 0)


DIRECT = Arm()


@dataclass(frozen=True, slots=True)
class Parsed:
    """`answer` is `None` when the output does not parse; a missing answer is counted, never guessed."""

    answer: str | None
    rationale: str | None = None


def sample(item: Item, arm: Arm) -> Sample:
    """The prompt of an item. Raises `ValueError` or `OSError` when a picture cannot be read."""
    images = [Image(data) for data in item.pictures()]
    return prompt.question(images, item.question, reason=arm.cot == "single", context=item.context, key=item.id)


def parse(output: str, arm: Arm) -> Parsed:
    """The first line of the answer, without blanks at its ends, is the answer."""
    rationale, answer = prompt.split_rationale(output) if arm.cot == "single" else (None, output)
    line = (answer or "").strip().split("\n")[0].strip()
    return Parsed(line or None, rationale)
