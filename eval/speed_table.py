"""What each stage computed and how fast, for the report: from the `flop/…` rows of `metrics.csv` and from `speed.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from eval.curves import Curve, Curves

NONE = "–"


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One stage; rates are medians over its figures, as text. A run without `speed.csv` has none."""

    petaflop: float
    shares: dict[str, float]  # part → share of these, all 0 where there are none
    tokens_per_second: str
    images_per_second: str
    tflops: str
    mfu: str
    data_wait: str


def speed_tables(curves: Curves, speed: Curves) -> dict[str, SpeedRow]:
    """Stage → its row; stages of a run from before these figures were written are left out."""
    return {
        stage: _row(names, speed.get(stage, {}))
        for stage, names in curves.items()
        if any(name.startswith("flop/") for name in names)
    }


def _row(names: Mapping[str, Curve], speed: Mapping[str, Curve]) -> SpeedRow:
    flop = {name.removeprefix("flop/"): curve.values[-1] for name, curve in names.items() if name.startswith("flop/")}
    total = sum(flop.values())
    shares = {part: n / max(1.0, total) for part, n in flop.items()}
    middle = {name: median(curve.values) for name, curve in speed.items()}
    forms = {
        "speed/tokens_per_second": "{:,.0f}",
        "speed/images_per_second": "{:,.0f}",
        "speed/tflops": "{:.3g}",
        "speed/mfu": "{:.1%}",
        "data/wait": "{:.1%}",
    }
    texts = (form.format(middle[name]).replace("%", " %") if name in middle else NONE for name, form in forms.items())
    return SpeedRow(total / 1e15, shares, *texts)
