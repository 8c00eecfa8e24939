"""What the arms have in common beside the prompts: lengths, sampling, and the task's parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eval import parsing
from eval.models import Request
from eval.parsing import Parser, Vote
from eval.prompting import Prompter
from eval.tasks import Item, digest
from vlm.sample import Sample

RATIONALE_TOKENS = 160  # room for a rationale, beside the answer's own
MAX_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Asking:
    """All that an arm needs."""

    prompter: Prompter = field(default_factory=Prompter)
    answer_tokens: int = 16
    rationale_tokens: int = RATIONALE_TOKENS
    parse: Parser = parsing.line
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0
    vote: Vote = parsing.ballot

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise ValueError(f"--samples {self.samples}: want 1 to {MAX_SAMPLES}")
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"--temperature {self.temperature}: want 0 to 100")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p}: want above 0, up to 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"--samples {self.samples} at --temperature 0 are {self.samples} times the same: raise it")

    def request(self, item: Item, sample: Sample, max_new_tokens: int, stop: Sequence[str] = (), step: int = 0) -> Request:
        """`step` numbers the requests of one item, so that each draws its own numbers."""
        return Request(
            sample,
            max_new_tokens,
            tuple(stop),
            temperature=self.temperature,
            top_p=self.top_p,
            num_samples=self.samples,
            seed=int(digest(str(self.seed), item.id, str(step))[:8], 16) if self.temperature else 0,
        )

    def answer(self, written: str | None) -> str | None:
        return None if written is None else self.parse(written)
