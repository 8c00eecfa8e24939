"""An arm by name, for a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from eval import conventions, metrics, parsing
from eval.arms.base import Arm, Steps
from eval.arms.calculator import calculator
from eval.arms.direct import direct
from eval.arms.least_to_most import least_to_most
from eval.arms.self_consistency import figures, self_consistency
from eval.arms.settings import RATIONALE_TOKENS, Asking
from eval.arms.single import single
from eval.arms.two_stage import two_stage
from eval.cli import nearest
from eval.prompting import Prompter, Support
from eval.tasks import Task, digest

ARMS: dict[str, Callable[..., Steps]] = {
    "none": direct,
    "single": single,
    "two_stage": two_stage,
    "self_consistency": self_consistency,
    "least_to_most": least_to_most,
    "calculator": calculator,
}
SAMPLES, TEMPERATURE = 10, 0.7  # of self-consistency; the temperature as in Wang et al., 2023


def make(
    task: Task,
    cot: str = "none",
    *,
    convention: str = "own",
    support: Support | None = None,
    blank: bool = False,
    max_new_tokens: int | None = None,
    rationale_tokens: int = RATIONALE_TOKENS,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Arm:
    """`max_new_tokens` is room for the answer (default: the task's), `rationale_tokens` for what comes before. `samples` is
    for self-consistency, whose default `temperature` is 0.7; that of all others is 0. Raises `ValueError` for an arm or a
    convention that there is not, and for what an arm cannot do.
    """
    if cot not in ARMS:
        raise nearest("arm", cot, ARMS)
    votes = cot == "self_consistency"
    if samples is not None and not votes:
        raise ValueError(f"--samples {samples} is for --cot self_consistency, not {cot}")
    asking = Asking(
        prompter(task, convention, support, blank),
        max_new_tokens or task.max_new_tokens,
        rationale_tokens,
        parsing.get(task.parser),
        temperature=temperature if temperature is not None else TEMPERATURE if votes else 0.0,
        top_p=top_p,
        samples=(SAMPLES if samples is None else samples) if votes else 1,
        seed=seed,
        vote=parsing.vote_of(task.metric),
    )
    settings: dict[str, Any] = {"cot": cot, **wording(asking.prompter), "blank": blank, "parser": task.parser}
    settings |= {"max_new_tokens": asking.answer_tokens}
    settings |= {"rationale_tokens": rationale_tokens} if cot != "none" else {}
    settings |= {"temperature": asking.temperature, "top_p": top_p, "seed": seed} if asking.temperature else {}
    settings |= {"samples": asking.samples} if votes else {}
    settings |= dict(support.settings) if support else {"shots": 0}
    return Arm(partial(ARMS[cot], asking=asking), settings, figures if votes and metrics.get(task.metric).score else None)


def prompter(task: Task, convention: str, support: Support | None = None, blank: bool = False) -> Prompter:
    """How a task's items are put. Raises `ValueError` for a convention that there is not."""
    captions = metrics.get(task.metric).name == "caption"
    return Prompter(conventions.get(convention), task.instruction, support, blank, captions)


def wording(prompter: Prompter) -> dict[str, str]:
    """For the records: a convention's words may change under its name."""
    convention = prompter.convention
    found = {"convention": convention.name, "convention_digest": digest(repr(convention))}
    return found | ({"instruction": prompter.instruction} if convention.instructed else {})
