"""Detectors against exact gold: AUROC over the tokens whose truth is known, with intervals that resample whole pictures.

Only tokens inside a span that could be checked against the table are judged. The threshold for marking words is chosen on
one half of the pictures and its precision and recall measured on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from eval import stats
from eval.hallucination.detectors import DETECTORS, POSITION, Detector
from eval.hallucination.signals import TokenSignals
from eval.tasks import digest


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
    """The detector and threshold of the best F1 on the development half, and what they do on the other half."""
    dev = np.array([int(digest(image)[-1], 16) % 2 == 0 for image in images], dtype=bool)
    candidates = [(*_best_f1(doubts[name][dev], wrong[dev]), name) for name in names]
    best = max(candidates, default=(0.0, np.inf, None), key=lambda c: c[0])
    if not np.isfinite(best[1]):
        return {"detector": None, "threshold": None}
    marked, test, groups = doubts[best[2]] >= best[1], ~dev, np.array(images)
    precision = stats.share(wrong[test & marked].astype(float), groups[test & marked].tolist(), variant="marked tokens that are wrong")
    recall = stats.share(marked[test & wrong].astype(float), groups[test & wrong].tolist(), variant="wrong tokens that are marked")
    return {"detector": best[2], "threshold": float(best[1]), "precision": precision, "recall": recall}


def _best_f1(doubt: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """(F1, threshold); (0, inf) when nothing is wrong."""
    if not wrong.any():
        return 0.0, float("inf")
    order = np.argsort(-doubt, kind="stable")
    hits = np.cumsum(wrong[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + wrong.sum())
    last_of_ties = np.append(np.diff(doubt[order]) != 0, True)
    best = int(np.argmax(np.where(last_of_ties, f1, -1.0)))
    return float(f1[best]), float(doubt[order][best])
