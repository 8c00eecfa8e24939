"""The fixed held-out questions on which models are compared: one chart a question, none of its tables ever in training.

The mix is laid out, not drawn: chart types take turns in proportion to the profile's weights, and within a type so do the
kinds of question. An item's id names its place in the mix and stays the same for any `count`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from datasets.charts.draw import render
from datasets.charts.profile import Profile, make_profile
from datasets.charts.questions import Question, applicable, make_question
from datasets.charts.spec import ChartSpec, make_spec
from datasets.charts.table import Table, table_text
from vlm.image import to_png

TRIES = 200  # charts looked at for one that has an unambiguous question of the wanted kind


@dataclass(frozen=True)
class ChartItem:
    """One held-out question with its gold answer, rationale and table."""

    id: str
    spec: ChartSpec
    gold: Question

    @cached_property
    def image(self) -> bytes:
        """PNG bytes; drawn when first asked for."""
        return to_png(render(self.spec))

    @property
    def question(self) -> str:
        return self.gold.text

    @property
    def answer(self) -> str:
        return self.gold.answer

    @property
    def rationale(self) -> str:
        return self.gold.rationale

    @property
    def kind(self) -> str:
        return self.gold.kind

    @property
    def chart_type(self) -> str:
        return self.spec.type

    @property
    def table(self) -> Table:
        return self.spec.table

    @property
    def table_text(self) -> str:
        return table_text(self.spec.table)


def held_out_items(seed: int = 0, count: int = 2000, profile: str | Profile | Mapping = "sight") -> list[ChartItem]:
    """The first `count` items of a seed."""
    profile = make_profile(profile)
    types = _in_turn(profile.types)
    kinds = {type_: _in_turn({k: w for k, w in profile.kinds.items() if applicable(k, type_)}) for type_ in profile.types}
    return [_item(seed, number, type_ := next(types), next(kinds[type_]), profile) for number in range(count)]


def _in_turn(weights: Mapping[str, float]) -> Iterator[str]:
    """Names for ever, each as often as its weight says, spread evenly (smooth weighted round robin)."""
    credit = {name: 0.0 for name, weight in weights.items() if weight > 0}
    while credit:
        for name in credit:
            credit[name] += weights[name]
        name = max(credit, key=credit.__getitem__)
        credit[name] -= sum(weights[n] for n in credit)
        yield name


def _item(seed: int, number: int, type_: str, kind: str, profile: Profile) -> ChartItem:
    for attempt in range(TRIES):
        spec = make_spec(seed, number * TRIES + attempt, "held_out", profile, type_=type_)
        question = make_question(spec, kind)
        if question is not None:
            return ChartItem(f"{profile.name}-{seed}-{number:05d}", spec, question)
    raise ValueError(f"no {kind} question fits a {type_} chart of profile {profile.name!r}: widen its counts or drop the kind")
