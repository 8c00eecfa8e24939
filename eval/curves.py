"""A run's `metrics.csv` and `speed.csv` (long format: `stage,step,tokens,name,value`) read back: one curve a stage and name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Curve:
    """`tokens` counts from the stage's start."""

    steps: list[int] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


Curves = Mapping[str, Mapping[str, Curve]]  # stage → name → curve, both in the file's order


def read_curves(run_dir: Path, file_name: str = "metrics.csv") -> Curves:
    """Empty when there is no file; a last line that a kill left unfinished is left out."""
    path = Path(run_dir) / file_name
    stages: dict[str, dict[str, Curve]] = {}
    if not path.is_file():
        return stages
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                step, tokens, value = int(row["step"]), float(row["tokens"]), float(row["value"])
            except (TypeError, ValueError, KeyError):
                continue
            curve = stages.setdefault(row["stage"], {}).setdefault(row["name"], Curve())
            curve.steps.append(step)
            curve.tokens.append(tokens)
            curve.values.append(value)
    return stages


def last_values(curves: Curves, prefix: str) -> dict[str, float]:
    """The last value of every name that begins with `prefix`, over all stages; the prefix is cut off."""
    found: dict[str, float] = {}
    for names in curves.values():
        found |= {name.removeprefix(prefix): curve.values[-1] for name, curve in names.items() if name.startswith(prefix)}
    return found
