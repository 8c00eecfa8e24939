"""The protocol between an evaluation and a model: prompts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vlm.sample import Sample


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, and how to go on from it. Requests that agree in all but `sample` and `seed` may share a batch."""

    sample: Sample
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # writing ends before the first of these
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    num_samples: int = 1  # completions of the prompt; above 1 only with a temperature
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What was written: `text` without special tokens, cut before a stop string."""

    text: str
    finish: str = (
        "stop"  # "stop": by itself or at a stop string; "length": it ran into max_new_tokens; "refused": a server said so
    )
    tokens: tuple[int, ...] = ()  # as generated; () where the model does not tell
    logprobs: tuple[float, ...] | None = None  # one a token, None where the model does not tell


class UnusableError(ValueError):
    """Whatever were asked, it would fail (a refused key, a damaged cache): the evaluation ends, and no item is to blame."""


class Model(Protocol):
    """Anything that continues samples."""

    def fingerprint(self) -> str:
        """What made the answers: a hash of weights, or an endpoint's model name."""
        ...

    def length(self, sample: Sample) -> int:
        """About how many tokens the prompt has; no picture is decoded for it."""
        ...

    def context_length(self) -> int | None:
        """Tokens of the longest document that the model was trained on; `None` where it does not tell."""
        ...

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`num_samples` completions of each request, whose options all agree. Raises `ValueError` naming the sample's key."""
        ...
