"""Detectors: from a text's signals to one doubt a token, higher = more likely not borne out by the picture.

A trained detector joins by the same interface: a `name` and a call. `POSITION` is the control that any detector must beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eval.hallucination.signals import TokenSignals


class Detector(Protocol):
    """`detector(signals)` → doubt of each token, float [T]. `name` is stored with every figure."""

    @property
    def name(self) -> str: ...

    def __call__(self, signals: TokenSignals) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class SignalDetector:
    """A detector without parameters."""

    name: str
    doubt: Callable[[TokenSignals], np.ndarray]

    def __call__(self, signals: TokenSignals) -> np.ndarray:
        return self.doubt(signals)


DETECTORS: dict[str, Detector] = {
    detector.name: detector
    for detector in (
        SignalDetector("logprob", lambda s: -s.logprob),
        SignalDetector("pmi", lambda s: -s.pmi),
        SignalDetector("combined", lambda s: -(s.logprob + s.pmi)),
    )
}
POSITION: Detector = SignalDetector("position", lambda s: s.position)
