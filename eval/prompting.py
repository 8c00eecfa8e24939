"""From an item to a prompt: one place for every arm of a comparison.

In a prompt with examples each stands before the question with its own pictures, all in one document: a token of our model sees
the last picture before it, so that the question's are the question's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eval.conventions import OWN, Convention
from eval.pictures import blanked, placed
from eval.tasks import Item
from vlm.sample import Sample, Segment, Text


class Support(Protocol):
    """Where the examples of few-shot prompts come from. `settings`: JSON-able, all that the choice depends on."""

    settings: Mapping[str, Any]

    def examples(self, item: Item) -> Sequence[Item]:
        """Those put before `item`, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Prompter:
    """`support` gives the examples before a question (`None`: none); `blank` takes all pictures' content away, theirs too."""

    convention: Convention = OWN
    instruction: str = ""  # of the task
    support: Support | None = None
    blank: bool = False
    captions: bool = False  # are asked for

    def ask(self, item: Item, *, reason: bool = False, before: Sequence[tuple[str, str]] = ()) -> Sample:
        """The question, up to where the model answers (`reason`: reasons first). `before`: questions about the same pictures
        that were answered already. Raises `ValueError` or `OSError` when a picture cannot be read."""
        return self._sample(item, reason, before)

    def conclude(self, item: Item, rationale: str) -> Sample:
        """The question with a whole rationale, up to where the model answers."""
        return self._sample(item, True, (), self._convention(item).conclude(rationale))

    def go_on(self, item: Item, written: str, *, reason: bool = True) -> Sample:
        """The question and `written` (as the model wrote it, blanks and all), to go on from there."""
        return self._sample(item, reason, (), self.convention.go_on(written))

    def _sample(self, item: Item, reason: bool, before: Sequence[tuple[str, str]], after: tuple[Segment, ...] = ()) -> Sample:
        header = [Text(self.convention.header, learn=False)] if self.convention.header else []
        segments = [*header, *self._examples(item, reason), *self._turns(item, reason, before), *after]
        sample = Sample(tuple(segments), key=item.id)
        return blanked(sample) if self.blank else sample

    def _turns(self, item: Item, reason: bool, before: Sequence[tuple[str, str]]) -> list[Segment]:
        """Pictures and context stand once, before the first question."""
        convention, text = self._convention(item), self.question(item)
        if not before:
            return placed(item.pictures(), convention.ask(text, item.context, reason=reason))
        (first, answer), *others = before
        segments = [*placed(item.pictures(), convention.ask(first, item.context)), convention.reply(answer)]
        for question, answer in others:
            segments += [Text(convention.ask(question), learn=False), convention.reply(answer)]
        return [*segments, Text(convention.ask(text, reason=reason), learn=False)]

    def question(self, item: Item) -> str:
        """Hint, question, lettered choices and the instruction (the item's, else the task's), a line each, if any."""
        hint = f"Context: {item.hint}" if item.hint else ""
        choices = [self.convention.choice.format(letter=k, text=v) for k, v in (item.choices or {}).items()]
        instruction = (item.instruction or self.instruction) if self.convention.instructed else ""
        return "\n".join(part for part in (hint, item.question, *choices, instruction) if part)

    def _examples(self, item: Item, reason: bool) -> list[Segment]:
        examples = self.support.examples(item) if self.support else ()
        return [segment for example in examples for segment in self.example(example, reason)]

    def example(self, item: Item, reason: bool) -> list[Segment]:
        """A question with its answer; it reasons where the question at the end is to and it has a rationale."""
        rationale = item.rationale if reason else ""
        convention = self._convention(item)
        given = convention.ask(self.question(item), item.context, reason=bool(rationale))
        end = [Text(convention.separator, learn=False)] if convention.separator else []
        return [*placed(item.pictures(), given), convention.reply(common(item.references), rationale), *end]

    def _convention(self, item: Item) -> Convention:
        return self.convention.suited(lettered=bool(item.choices), caption=self.captions)


def common(references: Sequence[str]) -> str:
    """The most frequent of several people's answers, of two the first."""
    return Counter(references).most_common(1)[0][0]
