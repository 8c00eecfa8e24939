"""How sure a figure is: intervals of shares, means and AUROC, and paired differences.

Questions about one picture are not independent, so every interval takes `groups` (the picture of each value) and counts
pictures, not questions: a share's Wilson interval uses the effective sample size n / deff (Kish's design effect estimated
from the groups), other means a studentized bootstrap over whole groups, differences Student's interval over them, AUROC the
percentiles of resampled groups. All intervals are two-sided at `LEVEL`; a seed fixes the resampling. Coverage in simulation:
`docs/evaluation.md` and `tests/eval/test_stats.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
RESAMPLES = 1000
MANY = 10_000  # groups above which a mean's bootstrap is Student's interval
FEW = 20  # groups below which it is, too
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
    """Mean of any values: Wilson when all are 0 or 1, else a studentized bootstrap over groups."""
    scores = np.asarray(values, dtype=float)
    if np.isin(scores, (0.0, 1.0)).all():
        return share(scores, groups, variant=variant)
    return figure(scores.mean(), _mean_interval(_Grouped(scores, groups), seed), len(scores), variant)


def stratified(strata: Sequence[Figure], *, variant: str, scale: float = 1.0) -> Figure:
    """`scale` times the mean of strata's means, each of the same weight. Strata are independent: the distances of their
    interval's ends are squared and added (Zou & Donner, 2008), so that it is as sure as they are and leaves no range they keep.
    """
    value = np.mean([np.nan if one["value"] is None else one["value"] for one in strata])
    n = sum(one["n"] for one in strata)
    if not np.isfinite(value) or any(one["interval"] is None for one in strata):
        return figure(scale * value, None, n, variant)
    away = np.array([one["interval"] for one in strata]) - [[one["value"]] for one in strata]
    low, high = value + np.array([-1, 1]) * np.sqrt((away**2).sum(axis=0)) / len(strata)
    return figure(scale * value, (scale * low, scale * high), n, variant)


def paired_difference(
    a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable] | None = None, *, variant: str
) -> Figure:
    """Mean of a − b over the same items, with Student's interval over groups. Raises `ValueError` when the lengths differ.

    Where groups agree the interval is what as many leave open (Wilson's, to both sides). Differences from -1 to 1 have a mean
    from -1 to 1.
    """
    difference = _difference(a, b)
    if not len(difference):
        return figure(np.nan, None, 0, variant)
    grouped = _Grouped(difference, groups)
    half = grouped.student() * grouped.error
    if np.ptp(difference) == 0 or grouped.error < 1e-12:
        z = stats.norm.ppf(0.5 + LEVEL / 2)
        half = z * z / (grouped.count + z * z)
    ends = np.array([grouped.mean - half, grouped.mean + half])
    return figure(grouped.mean, ends.clip(-1, 1) if abs(difference).max() <= 1 else ends, len(difference), variant)


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float | None:
    """Two-sided p of the mean of a − b: how often a resample of whole groups has the other sign. 1 where no item differs;
    `None` under `FEW` groups, whose resamples say too much."""
    grouped = _Grouped(_difference(a, b), groups)
    if not grouped.sums.any():
        return 1.0
    if grouped.count < FEW:
        return None
    drawn = _draws(grouped.count, seed) @ grouped.sums
    return float(min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (RESAMPLES + 1)))


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact two-sided p of as many items that only one got right falling as unequally, if both were as good (McNemar, 1947).

    It takes items as independent: where several share a picture, the interval of `paired_difference` is the one to read.
    """
    difference = _difference(a, b)
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _difference(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise ValueError(f"paired difference of {len(a)} and {len(b)} values")
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


class _Grouped:
    """Values summed up by group; `error` is the standard error of their mean over whole groups (a ratio's, linearised)."""

    def __init__(self, values: np.ndarray, groups: Sequence[Hashable] | None) -> None:
        index = _group_index(groups, len(values))
        self.values, self.sums, self.sizes = values, np.bincount(index, values), np.bincount(index)
        self.count = len(self.sums)
        self.mean = values.mean() if len(values) else np.nan
        residual = self.sums - self.sizes * self.mean
        self.error = np.sqrt(self.count / max(1, self.count - 1) * (residual**2).sum()) / max(1, len(values))
        self.error = self.error if self.count > 1 else np.nan

    def student(self) -> float:
        return float(stats.t.ppf(0.5 + LEVEL / 2, max(1, self.count - 1)))


def _mean_interval(grouped: _Grouped, seed: int) -> tuple[float, float]:
    """Bootstrap-t over groups (Efron, 1981), which skewed scores need; Student's where groups are too few to tell a shape, or
    so many that both are the same. Scores from 0 to 1 have a mean from 0 to 1."""
    low, high = grouped.student() * grouped.error * np.array([-1, 1]) + grouped.mean
    if FEW <= grouped.count <= MANY and grouped.error > 0:
        ends = np.quantile(_studentized(grouped, seed), [0.5 + LEVEL / 2, 0.5 - LEVEL / 2])
        low, high = grouped.mean - ends * grouped.error
    bounded = bool(grouped.values.min() >= 0 and grouped.values.max() <= 1)
    return (max(0.0, low), min(1.0, high)) if bounded else (low, high)


def _studentized(grouped: _Grouped, seed: int) -> np.ndarray:
    """(mean − the mean of all) / its standard error, of each resample in which groups differ."""
    draws, sums, sizes = _draws(grouped.count, seed), grouped.sums, grouped.sizes
    total = draws @ sizes
    means = draws @ sums / total
    squares = draws @ sums**2 - 2 * means * (draws @ (sums * sizes)) + means**2 * (draws @ sizes**2)
    errors = np.sqrt(grouped.count / (grouped.count - 1) * np.maximum(squares, 0)) / total
    known = errors > 1e-9 * grouped.error
    return (means[known] - grouped.mean) / errors[known]


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
