"""An item with what its tests take from elsewhere: another item, and the same chart with a value changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from datasets.charts.counterfactual import changed_item
from datasets.charts.held_out import ChartItem
from eval.tasks import Item

WINDOW = 120  # following items looked at for another one


@dataclass(frozen=True, slots=True)
class Changed:
    """The same question about a changed chart."""

    picture: bytes
    rationale: str
    answer: str


@dataclass(frozen=True)
class Case:
    """`other` asks about another picture and has another answer; `chart` is what a generated `item` was made of."""

    item: Item
    other: Item | None = None
    chart: ChartItem | None = None
    held_out_share: float = 0.125

    @cached_property
    def changed(self) -> Changed | None:
        """`None` where no value of the chart decides the answer."""
        found = changed_item(self.chart, self.held_out_share) if self.chart else None
        return Changed(found.image, found.rationale, found.answer) if found else None


def cases(
    items: Sequence[Item], limit: int | None = None, charts: Sequence[ChartItem] = (), held_out_share: float = 0.125
) -> dict[str, Case]:
    """The first `limit` items by id. What an item is tested with depends on all `items`, not on the limit: give more than are
    to be tested. `charts`: what they were made of, in the same order, if they were."""
    numbered: Mapping[str, ChartItem] = {chart.id: chart for chart in charts}
    count = len(items) if limit is None else min(limit, len(items))
    return {
        item.id: Case(item, other_item(items, place), numbered.get(item.id), held_out_share)
        for place, item in enumerate(items[:count])
    }


def other_item(items: Sequence[Item], place: int) -> Item | None:
    """The next item (after the last comes the first) of the same kind of question, with another picture and another answer;
    where there is none among `WINDOW`, one of any kind."""
    item = items[place]
    others = [other for other in _following(items, place) if _differs(item, other)]
    alike = (other for other in others if other.tags.get("kind") == item.tags.get("kind"))
    return next(alike, others[0] if others else None)


def _following(items: Sequence[Item], place: int) -> Iterator[Item]:
    return (items[(place + k) % len(items)] for k in range(1, min(WINDOW, len(items) - 1) + 1))


def _differs(item: Item, other: Item) -> bool:
    picture = (other.group or other.id) != (item.group or item.id)
    return picture and not set(other.references) & set(item.references)
