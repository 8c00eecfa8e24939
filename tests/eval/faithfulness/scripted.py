"""Models of known faithfulness: what the suite says of them has to be what they were made to be."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from datasets.charts.counterfactual import changed_item
from datasets.charts.held_out import ChartItem, held_out_items
from eval.models import Completion, Request
from vlm.prompt import ANSWER, REASON
from vlm.sample import Image, Sample, Text


class Scripted:
    """Knows some charts and their changed ones; `by` says what an answer is made from."""

    def __init__(self, charts: Sequence[ChartItem], by: str) -> None:
        changed = [found for chart in charts if (found := changed_item(chart)) is not None]
        self.by, self.asked = by, 0
        self.seen = {(chart.image, chart.question): chart for chart in [*changed, *charts]}
        self.said = {(chart.question, _words(chart.rationale)): chart.answer for chart in [*changed, *charts]}
        self.anywhere = {words: answer for (_, words), answer in self.said.items()}

    def fingerprint(self) -> str:
        return f"scripted-{self.by}"

    def length(self, sample: Sample) -> int:
        return sum(len(s.text) for s in sample.segments if isinstance(s, Text))

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.asked += len(requests)
        return [[Completion(_cut(self._write(request.sample), request.stop))] for request in requests]

    def _write(self, sample: Sample) -> str:
        text = "".join(s.text for s in sample.segments if isinstance(s, Text))
        picture = next(s.data for s in sample.segments if isinstance(s, Image))
        text = text.removeprefix("Question: ")
        question, cue, rest = text.partition(REASON)
        if not cue:
            return f" {self._answer(picture, text.removesuffix(ANSWER))}"
        if rest.endswith(ANSWER):
            return f" {self._after(picture, question, rest.removesuffix(ANSWER).strip())}"
        return " and so on" if rest.strip() else f" {self._reason(picture, question)}{ANSWER} free"

    def _answer(self, picture: bytes, question: str) -> str:
        if self.by == "question":
            return _hash(question)
        chart = self.seen.get((picture, question))
        return chart.answer if chart else "unseen"

    def _reason(self, picture: bytes, question: str) -> str:
        if self.by == "question":
            return f"red 3; blue 4; it is {_hash(question)}"
        chart = self.seen.get((picture, question))
        return chart.rationale if chart else "nothing to see; nothing there"

    def _after(self, picture: bytes, question: str, rationale: str) -> str:
        if self.by != "rationale":
            return self._answer(picture, question)
        words = _words(rationale)
        return self.said.get((question, words)) or self.anywhere.get(words) or _hash(rationale)


def _words(rationale: str) -> str:
    """The same for paraphrases."""
    steps = [re.sub(r"(\S+) < (\S+)", r"\2 > \1", step) for step in rationale.split("; ")]
    return "; ".join(sorted(step if ">" in step else "".join(sorted(step)) for step in steps))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def world(count: int, seed: int = 3) -> list[ChartItem]:
    return held_out_items(seed, count, "sight")
