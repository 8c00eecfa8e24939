"""How a question is put to the model, in one place: training data, evaluation and `eval.ask` all build their samples here.

Direct:     `<image>Question: … \\nAnswer: …`
Rationale:  `<image>Question: … \\nReason: … \\nAnswer: …`
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm.sample import Image, Sample, Segment, Text, Video

ANSWER = "\nAnswer:"
REASON = "\nReason:"


def question(
    media: Sequence[Image | Video],
    text: str,
    *,
    answer: str | None = None,
    rationale: str | None = None,
    reason: bool = False,
    context: str = "",
    key: str = "",
) -> Sample:
    """One question over `media` (and `context`, given text such as a table).

    With `answer` a training sample (through `rationale` where one is given); without, a prompt that ends where the model
    goes on: at `Reason:` when `reason` is set, else at `Answer:`.
    """
    return Sample((*media, *turn(text, answer=answer, rationale=rationale, reason=reason, context=context)), key=key)


def turn(
    text: str, *, answer: str | None = None, rationale: str | None = None, reason: bool = False, context: str = ""
) -> tuple[Segment, ...]:
    """The text segments of one question; several may follow one image, as in a conversation."""
    head = f"{context}\n" if context else ""
    cue = REASON if reason or rationale is not None else ANSWER
    given = Text(f"{head}Question: {text}{cue}", learn=False)
    if answer is None:
        return (given,)
    learnt = f" {rationale}{ANSWER} {answer}" if rationale is not None else f" {answer}"
    return (given, Text(learnt, learn=True))


def split_rationale(generated: str) -> tuple[str, str | None]:
    """What the model wrote after `Reason:` → (rationale, answer); answer is `None` when it never reached `Answer:`."""
    rationale, cue, answer = generated.partition(ANSWER)
    return rationale.strip(), answer.strip() if cue else None
