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
    tflops: str
    mfu: str


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
    texts = (
        form.format(scale * middle[f"speed/{name}"]) if f"speed/{name}" in middle else NONE
        for name, form, scale in (("tokens_per_second", "{:,.0f}", 1), ("tflops", "{:.3g}", 1), ("mfu", "{:.1f} %", 100))
    )
    return SpeedRow(total / 1e15, shares, *texts)
