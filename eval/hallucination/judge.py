"""Detectors against exact gold: AUROC over the tokens whose truth is known, with intervals that resample whole pictures.

Only tokens inside a span that could be checked against the table are judged. For marking words a detector may raise a false
alarm on `FALSE_ALARMS` of the right tokens: threshold and detector are chosen on one half of the pictures, precision and
recall measured on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from eval import stats
from eval.hallucination.detectors import DETECTORS, POSITION, Detector
from eval.hallucination.signals import TokenSignals
from eval.tasks import digest

FALSE_ALARMS = 0.1


def label_tokens(spans: Sequence[tuple[int, int]], text: str, judged: Iterable[tuple[int, int, bool]]) -> list[bool | None]:
    """Per token: `True` when a wrong span of `text` holds a visible character of it, `False` for a right span, `None`
    where nothing was judged."""
    labels: list[bool | None] = [None] * len(spans)
    for start, end, correct in judged:
        for i, (a, b) in enumerate(spans):
            if text[max(a, start) : min(b, end)].strip():
                labels[i] = bool(labels[i]) or not correct
    return labels


def judge_detectors(
    signals: Sequence[TokenSignals],
    labels: Sequence[Sequence[bool | None]],
    groups: Sequence[str],
    detectors: Mapping[str, Detector] = DETECTORS,
) -> dict:
    """Figures of each detector and of the position-only baseline, over the judged tokens of all texts."""
    known = [np.array([label is not None for label in row], dtype=bool) for row in labels]
    wrong = np.array([label for row in labels for label in row if label is not None], dtype=bool)
    images = [group for row, group in zip(labels, groups, strict=True) for label in row if label is not None]
    variant = "share of judged tokens that are wrong"
    summary: dict = {"base_rate": stats.share(wrong.astype(float), images, variant=variant), "auroc": {}}
    doubts = {}
    for detector in (*detectors.values(), POSITION):
        rows = [detector(s)[mask] for s, mask in zip(signals, known, strict=True)]
        doubts[detector.name] = np.concatenate(rows) if rows else np.zeros(0)
        summary["auroc"][detector.name] = stats.auroc_figure(doubts[detector.name], wrong, images, variant="token AUROC")
    return summary | _marking(doubts, wrong, images, tuple(detectors))


def _marking(doubts: Mapping[str, np.ndarray], wrong: np.ndarray, images: Sequence[str], names: Sequence[str]) -> dict:
    """Of the thresholds that mark at most `FALSE_ALARMS` of the development half's right tokens, that of the detector
    which then finds most wrong ones, and what it does on the other half."""
    dev = np.array([int(digest(image)[-1], 16) % 2 == 0 for image in images], dtype=bool)
    if not (wrong[dev].any() and wrong[~dev].any() and (~wrong[dev]).any()):
        return {"detector": None, "threshold": None}
    thresholds = {name: np.quantile(doubts[name][dev & ~wrong], 1 - FALSE_ALARMS) for name in names}
    found = {name: float(np.mean(doubts[name][dev & wrong] > thresholds[name])) for name in names}
    best = max(names, key=found.__getitem__)
    marked, test, groups = doubts[best] > thresholds[best], ~dev, np.array(images)
    precision = stats.share(wrong[test & marked], groups[test & marked].tolist(), variant="marked tokens that are wrong")
    recall = stats.share(marked[test & wrong], groups[test & wrong].tolist(), variant="wrong tokens that are marked")
    return {"detector": best, "threshold": float(thresholds[best]), "precision": precision, "recall": recall}
