"""What each stage was trained on, for the report: read from the `data/…`, `epochs/…`, `skipped/…` and `passed_over/…` rows of
`metrics.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eval.curves import Curve, Curves


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source in one stage; `share` is its share of the stage's tokens."""

    name: str
    share: float
    tokens: int
    samples: int
    epochs: float
    images: int
    skipped: int


@dataclass(slots=True)
class StageTable:
    """`padding` is a share of all positions; `cropped` counts tokens that were lost with the ends of `truncated` documents."""

    padding: float
    documents: int
    cuts: int
    truncated: int
    cropped: int
    waiting: int = 0  # documents that were drawn and not begun
    sources: list[SourceRow] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)  # "source: reason" → samples
    passed_over: dict[str, int] = field(default_factory=dict)  # "source: reason" → members of shards, or shards cut off


def data_tables(curves: Curves) -> dict[str, StageTable]:
    """Stage → its table; stages of a run from before these figures were written are left out."""
    return {stage: _table(names) for stage, names in curves.items() if "data/padding" in names}


def _table(names: Mapping[str, Curve]) -> StageTable:
    last = {name: curve.values[-1] for name, curve in names.items()}
    documents, cuts, truncated, cropped = (int(last[f"data/{name}"]) for name in ("documents", "cuts", "truncated", "cropped"))
    table = StageTable(last["data/padding"], documents, cuts, truncated, cropped, int(last.get("data/waiting", 0)))
    table.skipped, table.passed_over = _by_reason(last, "skipped/"), _by_reason(last, "passed_over/")
    for source in [name.removeprefix("data/share/") for name in last if name.startswith("data/share/")]:
        skipped = sum(int(n) for name, n in last.items() if name.startswith(f"skipped/{source}/"))
        tokens, samples, images = (int(last[f"data/{kind}/{source}"]) for kind in ("tokens", "samples", "images"))
        epochs = last.get(f"epochs/{source}", 0.0)
        table.sources.append(SourceRow(source, last[f"data/share/{source}"], tokens, samples, epochs, images, skipped))
    return table


def _by_reason(last: Mapping[str, float], start: str) -> dict[str, int]:
    """`START/SOURCE/REASON` → "source: reason"."""
    return {": ".join(name.removeprefix(start).rsplit("/", 1)): int(n) for name, n in last.items() if name.startswith(start)}
