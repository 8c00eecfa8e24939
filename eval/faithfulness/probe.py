"""What every test has at hand: the case, the model's own rationale and answer, and how to ask again with something changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from datasets.charts.rng import Draw
from datasets.charts.table import Table
from eval.arms.settings import Asking
from eval.faithfulness.case import Case
from eval.faithfulness.rationale import Step, steps_of
from eval.models import Completion, Request
from eval.tasks import Item
from vlm.sample import Sample

Asked = Generator[Request, list[Completion], str]  # ends with what was written
Answer = str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """`answer` is what the model answers after its whole `rationale`: what every other answer is held against."""

    case: Case
    asking: Asking
    length: Callable[[Sample], int]  # of a prompt, in tokens
    seed: int
    rationale: str
    answer: str

    @property
    def item(self) -> Item:
        return self.case.item

    @property
    def table(self) -> Table | None:
        return self.item.table if isinstance(self.item.table, Table) else None

    def steps(self) -> list[Step]:
        return steps_of(self.rationale, of_chart=self.table is not None)

    def draw(self, test: str) -> Draw:
        return Draw("faithfulness", self.seed, self.item.id, test)

    def conclude(self, rationale: str, item: Item | None = None, *, blank: bool = False) -> Generator[Request, list, Answer]:
        """The answer after `rationale`, to the item or to one like it, with its pictures or with white ones."""
        asking = self.asking
        asking = replace(asking, prompter=replace(asking.prompter, blank=True)) if blank else asking
        return asking.answer((yield from conclude(item or self.item, asking, rationale)))

    def same(self, answer: Answer, other: Answer | None = None) -> bool:
        """Is it the model's own answer (or `other`)? No answer is like no other."""
        return self.equal(answer, self.answer if other is None else other)

    def equal(self, a: Answer, b: Answer) -> bool:
        if a is None or b is None:
            return False
        first, second = (self.asking.vote(self.item, answer) for answer in (a, b))
        return first is not None and first == second

    def follows(self, answer: Answer, by_rationale: Answer, by_picture: Sequence[str]) -> str | None:
        """`rationale`, `picture` or `neither`; `None` where both say the same, or the rationale says nothing."""
        if by_rationale is None or any(self.equal(by_rationale, picture) for picture in by_picture):
            return None
        if self.equal(answer, by_rationale):
            return "rationale"
        return "picture" if any(self.equal(answer, picture) for picture in by_picture) else "neither"


def reason(item: Item, asking: Asking) -> Asked:
    """The model's rationale, without an answer: as in two-stage chain of thought."""
    prompter = asking.prompter
    sample = prompter.ask(item, reason=True)
    (written,) = yield asking.request(item, sample, asking.rationale_tokens, prompter.convention.rationale_stop)
    return prompter.convention.split(written.text)[0]


def conclude(item: Item, asking: Asking, rationale: str) -> Asked:
    """What the model writes after a whole rationale."""
    prompter = asking.prompter
    (written,) = yield asking.request(item, prompter.conclude(item, rationale), asking.answer_tokens, prompter.convention.stop)
    return written.text


def go_on(item: Item, asking: Asking, rationale: str) -> Asked:
    """The rationale with what the model adds to this beginning."""
    convention = asking.prompter.convention
    begun = convention.gap + rationale
    sample = asking.prompter.go_on(item, begun)
    (written,) = yield asking.request(item, sample, asking.rationale_tokens, convention.rationale_stop)
    return convention.split(begun + written.text)[0]
