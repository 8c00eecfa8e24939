"""What an arm of an evaluation is: a generator that asks, is told what was written, and ends with an answer.

    def direct(item: Item, max_new_tokens: int) -> Steps:
        (completion,) = yield Request(sample, max_new_tokens)  # a list of `num_samples`
        return Answered(answer, completion.text)

    arm = Arm(partial(direct, max_new_tokens=16), {"cot": "none", "max_new_tokens": 16})

`eval.engine` drives thousands of these at once, so that any number of steps is batched over all items. An arm draws no random
numbers but from a seed, and reads no clock: its answers depend on the item and on what the model wrote, on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.metrics import Metric
from eval.models import Completion, Request
from eval.stats import Figure


@dataclass(frozen=True, slots=True)
class Answered:
    """What an arm makes of an item. `extra` is JSON-able and joins the record (all sampled outputs, a vote, …)."""

    answer: str | None  # as the metric is to see it; None: there is none in what was written
    output: str  # what the model wrote in the end, raw
    rationale: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Steps = Generator[Request, list[Completion], Answered]


@dataclass(frozen=True, slots=True)
class Arm:
    """`ask(item)` begins the steps. `settings`: JSON-able, flat, and all that the answers depend on beside item and model
    (`cot`, `max_new_tokens`, `temperature`, `seed`, `shots`, …): records made with others are never mixed with these."""

    ask: Callable[[Any], Steps]
    settings: Mapping[str, Any]
    figures: Callable[[Sequence[dict], Metric], dict[str, Figure]] | None = None  # of scored records, beside the metric's own
