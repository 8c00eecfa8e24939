"""What the question forms share: the chart, the draws, and how a sentence is filled in."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.charts.phrasing import PHRASINGS, SIGHT_PHRASINGS, phrase
from datasets.charts.rng import Draw
from datasets.charts.spec import ChartSpec
from datasets.charts.view import View

UNANSWERABLE = "unanswerable"


@dataclass(frozen=True, slots=True)
class Question:
    """`rationale`: steps joined by "; ", each of which `steps.check_steps` can judge against the table."""

    kind: str
    form: str
    text: str
    answer: str
    rationale: str

    @property
    def steps(self) -> int:
        """Of the rationale."""
        return self.rationale.count("; ") + 1


@dataclass(frozen=True, slots=True)
class Asker:
    """One attempt to ask one kind of question about one chart."""

    spec: ChartSpec
    draw: Draw
    kind: str
    truth: bool  # the answer wanted of a yes/no question, tossed before one is looked for

    @property
    def printed(self) -> bool:
        return self.spec.printed

    def ask(self, form: str, answer: str, steps: list[str], view: View | None = None, high: bool = True, **fields) -> Question:
        """Fill one of the form's phrasings."""
        count = 1 if self.spec.plain else len(PHRASINGS[form][: None if self.printed else SIGHT_PHRASINGS])
        if view is not None:
            words, side = view.words, 0 if high else 1
            fields = {
                "p": view.prefix, "noun": view.noun, "adj": words.adjective, "u": self.unit,
                "size": "value" if self.printed else words.size, "what": self.what(view), "more": words.comparative[side],
                "most": words.superlative[side], "above": ("above", "below")[side], **fields,
            }  # fmt: skip
        text = phrase(form, self.draw.integer(0, count - 1), fields)
        return Question(self.kind, form, text, answer, "; ".join(steps))

    @property
    def tenths(self) -> bool:
        return self.spec.type == "pie" and not self.printed

    @property
    def unit(self) -> str:
        return " in tenths" if self.tenths else ""

    def amount(self, view: View, value: int) -> str:
        return view.number(value) + (" tenths" if self.tenths else "")

    def what(self, view: View) -> str:
        if self.printed:
            return "label"
        return view.words.where if view.row is not None else "colour"
