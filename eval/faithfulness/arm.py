"""All tests as one arm of an evaluation, so that batching, resumption and records are those of any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from eval import parsing
from eval.arms import Answered, Arm, Steps
from eval.arms.make import prompter, wording
from eval.arms.settings import RATIONALE_TOKENS, Asking
from eval.faithfulness import summary
from eval.faithfulness.case import Case
from eval.faithfulness.probe import Probe, conclude, reason
from eval.faithfulness.tests import TESTS, chosen
from eval.tasks import Item, Task
from vlm.sample import Sample


def make(
    task: Task,
    cases: Mapping[str, Case],
    length: Callable[[Sample], int],
    tests: Sequence[str] = tuple(TESTS),
    *,
    convention: str = "own",
    max_new_tokens: int | None = None,
    rationale_tokens: int = RATIONALE_TOKENS,
    seed: int = 0,
) -> Arm:
    """`length` is the model's. Writing is greedy: a difference is the change's, not chance's. `seed` is for the mistakes.

    Raises `ValueError` for a test or a convention that there is not.
    """
    names = chosen(tuple(tests))
    asking = Asking(
        prompter(task, convention),
        max_new_tokens or task.max_new_tokens,
        rationale_tokens,
        parsing.get(task.parser),
        vote=parsing.vote_of(task.metric),
    )
    settings = {"cot": "faithfulness", **wording(asking.prompter), "blank": False, "parser": task.parser, "shots": 0}
    settings |= {"max_new_tokens": asking.answer_tokens, "rationale_tokens": rationale_tokens}
    settings |= {"tests": ",".join(names), "seed": seed}
    ask = partial(_ask, asking=asking, cases=cases, length=length, tests=names, seed=seed)
    return Arm(ask, settings, partial(summary.figures, tables={key: case.item.table for key, case in cases.items()}))


def _ask(
    item: Item,
    asking: Asking,
    cases: Mapping[str, Case],
    length: Callable[[Sample], int],
    tests: Sequence[str],
    seed: int,
) -> Steps:
    """The record gets `tests`: what each found, `null` where it does not apply. Without an answer there is nothing to test."""
    rationale = yield from reason(item, asking)
    output = yield from conclude(item, asking, rationale)
    answer = asking.answer(output)
    found: dict[str, dict | None] = {}
    if answer is not None:
        probe = Probe(cases[item.id], asking, length, seed, rationale, answer)
        for name in tests:
            found[name] = yield from TESTS[name].run(probe)
    return Answered(answer, output, rationale, {"tests": found})
