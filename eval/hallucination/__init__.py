"""Which words of a model's own text the picture does not bear out, by signals of the model itself.

`signals` reads them off, a `Detector` turns them into one doubt a token, `judge` holds that against exact gold.
"""

from eval.hallucination.detectors import DETECTORS, POSITION, Detector
from eval.hallucination.judge import judge_detectors, label_tokens
from eval.hallucination.signals import TokenSignals, read_signals

__all__ = ["DETECTORS", "POSITION", "Detector", "TokenSignals", "judge_detectors", "label_tokens", "read_signals"]
