"""What a chart source draws: types, question kinds, sizes and counts. All fields are plain values, to be set from YAML.

`sight` asks what can be seen without reading: colours and places name the marks, values are whole numbers on an axis from
0 to 10. `glance` is its easy part, few marks, plain questions and no arithmetic: what a laptop can learn in minutes.
`read` prints names, numbers, legends and titles and asks by name. These show bars, lines and pies; `all` and `reading` are
`sight` and `read` over every chart type.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from datasets.charts.kinds import CHART_TYPES, FIRST_TYPES, QUESTION_KINDS

RENDERER_NAMES = ("own", "matplotlib")


def _equal(names: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


@dataclass(frozen=True)
class Profile:
    """Counts are [least, most]; weights need not add up to 1, and 0 leaves a type or kind out."""

    name: str = "sight"
    plain: bool = False  # each kind of question in one form and one wording
    text: bool = False  # names, numbers and titles printed and asked for
    types: dict[str, float] = field(default_factory=lambda: _equal(FIRST_TYPES))
    kinds: dict[str, float] = field(default_factory=lambda: _equal(QUESTION_KINDS))
    side: tuple[int, int] = (64, 64)  # pixels, longer side of the picture
    aspect: tuple[float, float] = (1.0, 1.0)  # width / height
    bars: tuple[int, int] = (2, 5)
    slices: tuple[int, int] = (2, 5)
    groups: tuple[int, int] = (2, 3)
    group_series: tuple[int, int] = (2, 3)
    lines: tuple[int, int] = (1, 3)
    points: tuple[int, int] = (4, 6)
    dots: tuple[int, int] = (3, 6)
    top: int = 9  # largest value of a chart without printed numbers (its axis ends one higher)
    title_share: float = 0.0  # charts with a title: decoration in `sight`
    grid_share: float = 0.5
    turn_pie: bool = False  # first slice at any angle rather than at twelve o'clock
    renderers: dict[str, float] = field(default_factory=lambda: {"own": 1.0})  # who draws: `own` or `matplotlib`
    table_share: float = 0.0  # of training charts, also asked for their table in DePlot's linear form
    calls: bool = False  # rationales call a calculator: 7 - 3 = <<7-3>>4 (training samples alone)
    held_out_share: float = 0.125  # of all tables, by hash: those no training chart shows

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # lists from YAML
            if isinstance(getattr(self, f.name), list):
                object.__setattr__(self, f.name, tuple(getattr(self, f.name)))
        _check_weights("types", self.types, tuple(CHART_TYPES))
        _check_weights("kinds", self.kinds, QUESTION_KINDS)
        _check_weights("renderers", self.renderers, RENDERER_NAMES)
        for name in ("side", "aspect", "bars", "slices", "groups", "group_series", "lines", "points", "dots"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(f"{name}: want [least, most], both positive, got {list(value)}")
        limits = {"bars": 7, "slices": 7, "group_series": 4, "lines": 3, "points": 8, "groups": 6, "dots": 7}
        for name, most in limits.items():
            if getattr(self, name)[1] > most:
                raise ValueError(f"{name}: at most {most} can be told apart, got {getattr(self, name)[1]}")
        if self.points[0] < 3:
            raise ValueError(f"points: a line needs at least 3 to turn, got {self.points[0]}")
        least_side = 96 if self.text else 32
        if self.side[0] < least_side:
            raise ValueError(f"side: want at least {least_side} pixels in profile {self.name!r}, got {self.side[0]}")
        if not 3 <= self.top <= 99:
            raise ValueError(f"top: want 3 to 99, got {self.top}")
        if not 0 <= self.table_share <= 1:
            raise ValueError(f"table_share: want a share from 0 to 1, got {self.table_share}")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share: want a share between 0 and 1, got {self.held_out_share}")


def _check_weights(name: str, weights: Mapping[str, float], known: tuple[str, ...]) -> None:
    for key, weight in weights.items():
        if key not in known:
            raise ValueError(f"{name}: unknown {key!r}{_nearest(key, known)}")
        if weight < 0:
            raise ValueError(f"{name}.{key}: a weight cannot be negative, got {weight}")
    if not any(weights.values()):
        raise ValueError(f"{name}: all weights are 0")


def _nearest(key: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


SIGHT_KINDS = {
    "value": 4, "label": 2, "extremum": 3, "compare": 2, "count": 2, "sum": 1, "difference": 1, "ratio": 0.5, "average": 0.5,
    "trend": 1.5, "yes_no": 2, "unanswerable": 1,
}  # fmt: skip
GLANCE_KINDS = {"value": 0.5, "label": 1.0, "extremum": 1.0, "compare": 1.0, "count": 1.0, "trend": 1.0, "yes_no": 1.0}
GLANCE_TYPES = {"vertical_bar": 4.0, "horizontal_bar": 2.0, "line": 2.0, "pie": 2.0}
PROFILES = {
    "sight": Profile(kinds=SIGHT_KINDS),
    "glance": Profile(
        name="glance", plain=True, kinds=GLANCE_KINDS, types=GLANCE_TYPES, bars=(2, 3), slices=(2, 3), lines=(1, 2),
        points=(3, 4),
    ),
    "read": Profile(
        name="read", text=True, kinds=SIGHT_KINDS, side=(128, 256), aspect=(0.85, 1.3), slices=(2, 6), groups=(2, 4),
        points=(3, 7), title_share=0.8, grid_share=0.6, turn_pie=True,
    ),
}  # fmt: skip
PROFILES["all"] = dataclasses.replace(PROFILES["sight"], name="all", types=_equal(CHART_TYPES))
PROFILES["reading"] = dataclasses.replace(PROFILES["read"], name="reading", types=_equal(CHART_TYPES))


def make_profile(profile: str | Profile | Mapping = "sight", **overrides) -> Profile:
    """A preset by name (or a mapping with `name` and fields to change), with fields replaced by keyword.

    Raises `ValueError` naming the unknown preset, field, type or kind and the nearest known one.
    """
    if isinstance(profile, Mapping):
        overrides = {**profile, **overrides}
        profile = overrides.pop("name", "sight")
    if not isinstance(profile, Profile):
        if profile not in PROFILES:
            raise ValueError(f"unknown chart profile {profile!r}{_nearest(profile, tuple(PROFILES))}")
        profile = PROFILES[profile]
    known = tuple(f.name for f in dataclasses.fields(Profile))
    for key in overrides:
        if key not in known:
            raise ValueError(f"unknown chart profile field {key!r}{_nearest(key, known)}")
    return dataclasses.replace(profile, **overrides)
