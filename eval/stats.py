"""How sure a figure is: intervals of shares, means and AUROC, and paired differences.

Questions about one picture are not independent, so every interval takes `groups` (the picture of each value) and counts
pictures, not questions: a share's Wilson interval uses the effective sample size n / deff (Kish's design effect estimated
from the groups), other figures resample whole groups. All intervals are two-sided at `LEVEL`; a seed fixes the resampling.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
RESAMPLES = 1000
MANY = 10_000  # groups above which a mean's bootstrap is the normal interval
Figure = dict  # {value, interval: [low, high] | None, n, variant}


def figure(value: float, interval: Sequence[float] | None, n: int, variant: str) -> Figure:
    """The one form in which a figure is stored. An undefined value or interval is `None`."""
    bounds = None if interval is None or not np.all(np.isfinite(interval)) else [float(b) for b in interval]
    return {"value": float(value) if np.isfinite(value) else None, "interval": bounds, "n": int(n), "variant": variant}


def share(values: ArrayLike, groups: Sequence[Hashable] | None = None, *, variant: str) -> Figure:
    """Mean of 0/1 values with its Wilson interval."""
    hits = np.asarray(values, dtype=float)
    if not len(hits):
        return figure(np.nan, None, 0, variant)
    p, n = hits.mean(), len(hits) / _design_effect(hits, groups)
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)
    return figure(p, (low, high), len(hits), variant)


def _design_effect(values: np.ndarray, groups: Sequence[Hashable] | None) -> float:
    """Variance of the mean over whole groups relative to independent values; never below 1."""
    index = _group_index(groups, len(values))
    count = index.max() + 1
    variance = values.var()
    if count in (1, len(values)) or variance == 0:
        return len(values) / count  # nothing to estimate it from: a picture counts as one
    residual = np.bincount(index, values - values.mean())
    clustered = count / (count - 1) * np.sum(residual**2) / len(values) ** 2
    return max(1.0, clustered / (variance / len(values)))


def mean(values: ArrayLike, groups: Sequence[Hashable] | None = None, *, variant: str, seed: int = 0) -> Figure:
    """Mean of any values: Wilson when all are 0 or 1, else a bootstrap over groups."""
    scores = np.asarray(values, dtype=float)
    if np.isin(scores, (0.0, 1.0)).all():
        return share(scores, groups, variant=variant)
    return figure(scores.mean(), _mean_interval(scores, groups, seed), len(scores), variant)


def paired_difference(
    a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable] | None = None, *, variant: str, seed: int = 0
) -> Figure:
    """Mean of a − b over the same items, resampled by group. Raises `ValueError` when the lengths differ."""
    if len(a) != len(b):
        raise ValueError(f"paired difference of {len(a)} and {len(b)} values")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if not len(difference):
        return figure(np.nan, None, 0, variant)
    return figure(difference.mean(), _mean_interval(difference, groups, seed), len(difference), variant)


def _mean_interval(values: np.ndarray, groups: Sequence[Hashable] | None, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over groups; above `MANY` groups the normal interval, which is then the same."""
    index = _group_index(groups, len(values))
    sums, sizes = np.bincount(index, values), np.bincount(index)
    if len(sums) > MANY:
        error = np.sqrt(np.sum((sums - sizes * values.mean()) ** 2)) / len(values)
        return tuple(values.mean() + stats.norm.ppf([0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) * error)
    draws = _draws(len(sums), seed)
    return _percentiles(draws @ sums / (draws @ sizes))


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """P(score of a positive > score of a negative), ties a half; nan unless both classes occur."""
    return float(weighted_auroc(scores, labels, np.ones((1, len(np.asarray(scores)))))[0])


def weighted_auroc(scores: ArrayLike, labels: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """AUROC [R] of R resamples; `weights` [R, N] says how often each value occurs in each."""
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    ranked, positive = np.asarray(scores, dtype=float)[order], np.asarray(labels, dtype=bool)[order]
    if not len(order):
        return np.full(len(weights), np.nan)
    starts = np.flatnonzero(np.append(True, np.diff(ranked) != 0))
    hits, misses = (np.add.reduceat(weights[:, order] * part, starts, axis=1) for part in (positive, ~positive))
    below = np.cumsum(misses, axis=1) - misses / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits * below).sum(axis=1) / (hits.sum(axis=1) * misses.sum(axis=1))


def auroc_figure(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | None = None, *, variant: str, seed: int = 0
) -> Figure:
    """AUROC with a bootstrap interval over groups."""
    value, count = auroc(scores, labels), len(np.asarray(labels))
    if not np.isfinite(value):
        return figure(np.nan, None, count, variant)
    index = _group_index(groups, count)
    chunks = np.array_split(_draws(index.max() + 1, seed), 20)  # 50 resamples at once bound the memory
    resampled = np.concatenate([weighted_auroc(scores, labels, chunk[:, index]) for chunk in chunks])
    return figure(value, _percentiles(resampled[np.isfinite(resampled)]), count, variant)


def _group_index(groups: Sequence[Hashable] | None, n: int) -> np.ndarray:
    if groups is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=int)


def _draws(count: int, seed: int) -> np.ndarray:
    """[RESAMPLES, count] how often each group occurs when `count` groups are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.int32)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) if len(values) else (np.nan, np.nan)
    return low, high
