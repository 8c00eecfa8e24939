"""`ChartSpec`: everything about one chart, a pure function of (seed, index, split, profile).

The split is decided by the table itself: a hash of its names and numbers puts it on the training or the held-out side, and a
table of the wrong side is drawn again. So no training chart, of any seed, type or style, shows a held-out table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from datasets.charts.content import COLOURS, sight_table
from datasets.charts.kinds import CHART_TYPES
from datasets.charts.print_layout import has_room
from datasets.charts.printed import printed_chart
from datasets.charts.profile import Profile
from datasets.charts.rng import Draw
from datasets.charts.style import Style, sight_style
from datasets.charts.table import Table

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class ChartSpec:
    """One chart: what it says, how it looks, and where it came from."""

    seed: int
    index: int
    split: Split
    profile: str
    printed: bool  # names and numbers are printed, and questions use them
    table: Table
    x_name: str
    y_name: str
    style: Style
    mark_pool: tuple[str, ...]  # all names of the sort of its marks: where names that it lacks are taken from
    plain: bool = False  # each kind of question in one form and one wording
    renderer: str = "own"  # or "matplotlib"

    @property
    def type(self) -> str:
        return self.table.type

    @property
    def key(self) -> str:
        return f"{self.profile}-{self.split}-{self.seed}-{self.index}"

    def restyled(self, **changes) -> ChartSpec:
        """The same chart in other looks (fields of `Style`)."""
        return replace(self, style=replace(self.style, **changes))


def split_of(table: Table, held_out_share: float) -> Split:
    return "held_out" if table.digest() < held_out_share * 2**64 else "train"


def make_spec(
    seed: int, index: int, split: Split = "train", profile: Profile | None = None, *, type_: str | None = None
) -> ChartSpec:
    """The `index`-th chart of a seed. `type_` fixes the chart type, which is otherwise drawn by the profile's weights.

    Raises `ValueError` when the profile's tables are so few that none falls on the side of `split`, or its pictures too small.
    """
    profile = profile or Profile()
    if split not in ("train", "held_out"):
        raise ValueError(f"unknown split {split!r} (known: train, held_out)")
    draw = Draw("chart", seed, index, split)
    type_ = type_ or draw.weighted(profile.types)
    if type_ not in CHART_TYPES:
        raise ValueError(f"unknown chart type {type_!r} (known: {', '.join(CHART_TYPES)})")
    renderer = Draw("renderer", seed, index, split).weighted(profile.renderers)  # its own draw: no other one moves
    for _ in range(2000):
        table, x_name, y_name, style, pool = _propose(type_, profile, draw)
        if split_of(table, profile.held_out_share) != split:
            continue
        spec = ChartSpec(
            seed, index, split, profile.name, profile.text, table, x_name, y_name, style, pool, profile.plain, renderer
        )
        if not spec.printed or has_room(spec):
            return spec
    raise ValueError(f"profile {profile.name!r} has no room for a {type_} chart of split {split!r}: change its counts or side")


def _propose(type_: str, profile: Profile, draw: Draw) -> tuple[Table, str, str, Style, tuple[str, ...]]:
    if profile.text:
        return printed_chart(type_, profile, draw)
    table = sight_table(type_, profile, draw)
    return table, "", "", sight_style(table, profile, draw), tuple(COLOURS)
