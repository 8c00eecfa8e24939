"""What the question forms are put together from: views of a chart, and pairs of its marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datasets.charts.asker import Asker
from datasets.charts.view import View, pick_view


def view_of(q: Asker, least: int) -> View | None:
    return pick_view(q.spec.table, q.printed, q.draw, least)


def any_view(q: Asker) -> View:
    view = view_of(q, 1)
    assert view is not None  # a chart has a mark
    return view


@dataclass(frozen=True, slots=True)
class Pair:
    """Two marks of a view, in the order in which they are named."""

    view: View
    i: int
    j: int

    @property
    def values(self) -> tuple[int, int]:
        return self.view.values[self.i], self.view.values[self.j]

    @property
    def a(self) -> str:
        return self.view.name(self.view.labels[self.i])

    @property
    def b(self) -> str:
        return self.view.name(self.view.labels[self.j])

    def facts(self) -> list[str]:
        return self.view.facts((self.i, self.j))

    def compared(self) -> str:
        """Their values with the sign between them."""
        first, second = self.values
        return f"{self.view.number(first)} {sign(first, second)} {self.view.number(second)}"


def pair_of(q: Asker, accept: Callable[[int, int], bool]) -> Pair | None:
    """Two marks of one view whose values, in that order, `accept` agrees to."""
    view = view_of(q, 2)
    if view is None:
        return None
    marks = range(len(view.labels))
    pairs = [(i, j) for i in marks for j in marks if i != j and accept(view.values[i], view.values[j])]
    return Pair(view, *q.draw.pick(pairs)) if pairs else None


def sign(first: int, second: int) -> str:
    return ">" if first > second else "<"
