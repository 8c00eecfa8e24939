"""Which words to mark as doubtful: the detector and threshold that a run's own evaluation chose."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.hallucination.detectors import DETECTORS, Detector


@dataclass(frozen=True, slots=True)
class Marking:
    detector: Detector
    threshold: float

    def doubtful(self, text: str, doubt: float | None) -> bool:
        """Is a token or word with this doubt to be marked? Punctuation and blanks never are."""
        return doubt is not None and doubt > self.threshold and any(c.isalnum() for c in text)

    @classmethod
    def load(cls, checkpoint: Path) -> Marking | None:
        """From `RUN/eval/charts/summary.json` (`checkpoint` is RUN or its model directory); `None` where there is none."""
        for run in (Path(checkpoint), Path(checkpoint).absolute().parent):
            path = run / "eval" / "charts" / "summary.json"
            if path.is_file():
                return cls.of(json.loads(path.read_text(encoding="utf-8")).get("hallucination", {}))
        return None

    @classmethod
    def of(cls, summary: dict) -> Marking | None:
        """From the `hallucination` part of a summary; `None` when it could not choose a detector."""
        detector, threshold = DETECTORS.get(summary.get("detector", "")), summary.get("threshold")
        return None if detector is None or threshold is None else cls(detector, threshold)


def word_doubts(text: str, spans: Sequence[tuple[int, int]], doubt: np.ndarray) -> list[tuple[str, float]]:
    """The words of a text, each with the blanks before it, and the doubt of its most doubtful token."""
    words = []
    for match in re.finditer(r"\s*\S+|\s+$", text):
        inside = [doubt[i] for i, (a, b) in enumerate(spans) if text[max(a, match.start()) : min(b, match.end())].strip()]
        words.append((match.group(), max(inside, default=float("-inf"))))
    return words
