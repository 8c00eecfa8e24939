"""Do prompts fit into a model's context? Told before anything is asked, in one line.

Examples that do not fit are refused. Without examples there is just a warning: a user cannot make a question shorter. An item
whose examples cannot be found (its own picture is broken) is left out: its record will say so.

A prompt is about as long as the question and each example alone, so that each is measured once; no picture is read for it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from eval.models import Model
from eval.prompting import Prompter
from eval.tasks import Item
from vlm.sample import Sample


def check(model: Model, context: int, prompter: Prompter, items: Sequence[Item], *, reason: bool, room: int) -> None:
    """`context`: tokens that the model can have; `room`: those it may write, rationale and answer. Raises `ValueError` naming
    the longest prompt and the most shots that fit for every item."""
    support = prompter.support
    plain = dataclasses.replace(prompter, support=None)
    lengths: dict[str, int] = {}
    worst, most = (0, ""), None
    for item in items:
        try:
            shown = support.examples(item) if support else ()
        except (ValueError, OSError):
            continue
        own = model.length(plain.ask(_pictureless(item), reason=reason)) + room
        examples = [_length(model, plain, e, reason, lengths) for e in shown]
        worst = max(worst, (own + sum(examples), item.id))
        fits = _fitting(examples, context - own)
        most = fits if most is None else min(most, fits)
    if worst[0] <= context:
        return
    longest = f"the prompt of item {worst[1]} takes {worst[0]:,} tokens with room for the answer"
    longest += f", and the model was trained on {context:,}"
    if support is None:
        print(f"warning: {longest}", file=sys.stderr, flush=True)
        return
    shots = support.settings.get("text_only_examples") or support.settings["shots"]
    raise ValueError(f"--shots {shots}: {longest}: at most {most} fit for every item, and --beyond-context asks all the same")


def _length(model: Model, prompter: Prompter, example: Item, reason: bool, known: dict[str, int]) -> int:
    if example.id not in known:
        known[example.id] = model.length(Sample(tuple(prompter.example(_pictureless(example), reason))))
    return known[example.id]


def _fitting(examples: Sequence[int], left: int) -> int:
    """How many of the longest examples fit."""
    count = 0
    for length in sorted(examples, reverse=True):
        left -= length
        if left < 0:
            break
        count += 1
    return count


def _pictureless(item: Item) -> Item:
    """With pictures that need not be read: a prompt's length goes by their number."""
    return dataclasses.replace(item, images=(b"",) * len(item.images))
