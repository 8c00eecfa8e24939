"""A model that says what it is told to, and a driver of one arm: each request can then be asserted exactly."""

from __future__ import annotations

from collections.abc import Callable

from eval.arms import Answered, Steps
from eval.models import Completion, Request
from vlm.sample import Sample, Text


def play(steps: Steps, *script: str | list[str]) -> tuple[Answered, list[Request]]:
    """Answer each request with the script's next text (or texts); stop strings cut it as a model's would."""
    asked: list[Request] = []
    lines = iter(script)
    try:
        request = next(steps)
        while True:
            asked.append(request)
            texts = next(lines)
            request = steps.send([_completion(t, request) for t in ([texts] if isinstance(texts, str) else texts)])
    except StopIteration as end:
        assert next(lines, None) is None, "the script has lines left"
        return end.value, asked


def _completion(text: str, request: Request) -> Completion:
    ends = [text.find(stop) for stop in request.stop if stop in text]
    return Completion(text[: min(ends)] if ends else text)


def answers(model: Callable[[str], str], steps: Steps) -> Answered:
    """Drive an arm by a function of the prompt's text."""
    try:
        request = next(steps)
        while True:
            request = steps.send([_completion(model(shown(request.sample)), request)] * request.num_samples)
    except StopIteration as end:
        return end.value


def shown(sample: Sample) -> str:
    """The prompt as one text, pictures as `▢`, learnt texts in `[…]`."""
    texts = (s if isinstance(s, Text) else None for s in sample.segments)
    return "".join("▢" if t is None else f"[{t.text}]" if t.learn else t.text for t in texts)
