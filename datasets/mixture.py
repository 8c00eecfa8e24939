"""Which sample comes next: a deterministic sequence of draws over weighted sources, computed, never drawn at run time.

A schedule of 10,000 draws (more for very small shares), in which each source's stand evenly, is laid out once and repeated, so
draw n is found directly, at the same cost for the first and the billionth: a rank, a worker or a resumed run jumps to its
draws without walking there.
What happens when a source's epochs are used up is said for each: it leaves, and the others share what remains in proportion to
their weights (`drop`); the mixture ends there (`stop`); or it goes on in a new order each epoch (`repeat`). Weights are shares
of the samples drawn; `by_tokens` makes them shares of tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datasets.source import Source

USED_UP = ("drop", "stop", "repeat")
_PERIOD, _LONGEST_PERIOD = 10_000, 1_000_000
_LEAST = 10  # draws of every source in one period, so that rounding moves a share by under 10 %


class Draw(NamedTuple):
    """Sample number `sample` of `epoch` of source number `source`."""

    source: int
    epoch: int
    sample: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Draws from `start` on, until one more source is used up; `base` counts each source's draws before it."""

    start: int
    base: np.ndarray  # [S]
    schedule: np.ndarray  # [P] source of each draw of the period
    before: np.ndarray  # [P] draws of that same source earlier in the period
    period: np.ndarray  # [S] draws of each source in a period

    def position(self, n: int) -> tuple[int, int]:
        """Source of draw n and how many of its samples were drawn before."""
        round_, place = divmod(n - self.start, len(self.schedule))
        source = int(self.schedule[place])
        return source, int(self.base[source] + round_ * self.period[source] + self.before[place])

    def counts(self, n: int) -> np.ndarray:
        """[S] draws of each source among the first n."""
        round_, place = divmod(n - self.start, len(self.schedule))
        part = np.bincount(self.schedule[:place], minlength=len(self.base))
        return self.base + round_ * self.period + part


class Mixture:
    """`sources` by `weights` (any positive numbers), each seen for `epochs` (`None` = endlessly), then what `used_up` says.

    Raises `ValueError` for an empty mixture, a weight or a number of epochs that is not positive, a source without samples
    or two sources of one name. Fractions of an epoch are allowed: 0.5 uses half of the samples.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        epochs: Sequence[float | None] | None = None,
        used_up: Sequence[str] | None = None,
    ) -> None:
        self.sources, self.weights = tuple(sources), tuple(weights)
        self.epochs = tuple(epochs) if epochs is not None else (None,) * len(self.sources)
        self.used_up = tuple(used_up) if used_up is not None else ("drop",) * len(self.sources)
        self._check()
        specs = zip(self.sources, self.epochs, self.used_up, strict=True)
        self.limits = [None if e is None or then == "repeat" else round(e * len(s)) for s, e, then in specs]
        self._stretches, self.size = self._lay_out()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.sources)

    def by_tokens(self, tokens_per_sample: Mapping[str, float]) -> Mixture:
        """The same sources, drawn so that the weights are shares of tokens; `tokens_per_sample` by name (see `mean_tokens`)."""
        weights = [w / tokens_per_sample[name] for w, name in zip(self.weights, self.names, strict=True)]
        return Mixture(self.sources, weights, self.epochs, self.used_up)

    def draw(self, n: int) -> Draw | None:
        """The n-th draw, or `None` when all sources are used up before it."""
        if self.size is not None and n >= self.size:
            return None
        source, count = self._at(n).position(n)
        return Draw(source, *divmod(count, len(self.sources[source])))

    def counts(self, n: int) -> list[int]:
        """How many samples of each source are among the first n draws: the mixture's position."""
        n = n if self.size is None else min(n, self.size)
        return self._at(n).counts(n).tolist()

    def _at(self, n: int) -> _Stretch:
        return self._stretches[bisect.bisect_right(self._stretches, n, key=lambda s: s.start) - 1]

    def _check(self) -> None:
        if not self.sources:
            raise ValueError("the mixture is empty: it needs at least one source")
        if not len(self.sources) == len(self.weights) == len(self.epochs) == len(self.used_up):
            counts = f"{len(self.sources)} sources, {len(self.weights)} weights, {len(self.epochs)} epochs"
            raise ValueError(f"the mixture needs one weight and one number of epochs for each source, not {counts}")
        for name, source, weight, epochs in zip(self.names, self.sources, self.weights, self.epochs, strict=True):
            if self.names.count(name) > 1:
                raise ValueError(f"two sources of the mixture are named {name!r}: give one of them another name")
            if not _positive(weight):
                raise ValueError(f"weight of source {name!r} is {weight!r}: it must be a number above 0")
            if epochs is not None and not _positive(epochs):
                raise ValueError(f"epochs of source {name!r} is {epochs!r}: it must be a number above 0, or null for endless")
            if not len(source):
                raise ValueError(f"source {name!r} has no samples")
            if epochs is not None and not round(epochs * len(source)):
                raise ValueError(f"epochs of source {name!r} is {epochs}: that is none of its {len(source)} samples")
        for name, epochs, then in zip(self.names, self.epochs, self.used_up, strict=True):
            if then not in USED_UP:
                raise ValueError(f"used_up of source {name!r} is {then!r}: it must be one of {', '.join(USED_UP)}")
            if then == "stop" and epochs is None:
                raise ValueError(f"used_up of source {name!r} is 'stop', but it has no epochs after which it could be used up")
        for name, weight in zip(self.names, self.weights, strict=True):
            if weight / sum(self.weights) * _LONGEST_PERIOD < _LEAST:
                raise ValueError(f"weight of source {name!r} is {weight}: under 1/100,000 of the mixture")

    def _lay_out(self) -> tuple[list[_Stretch], int | None]:
        """All stretches, and the number of draws in all (`None` = endless)."""
        stretches: list[_Stretch] = []
        start, base = 0, np.zeros(len(self.sources), np.int64)
        while True:
            left = [i for i, limit in enumerate(self.limits) if limit is None or base[i] < limit]
            if not left:
                return stretches, start
            stretch = self._stretch(start, base, left)
            stretches.append(stretch)
            ends = [_used_up(stretch, i, limit) for i in left if (limit := self.limits[i]) is not None]
            if not ends:
                return stretches, None
            start = min(ends)
            base = stretch.counts(start)
            if any(then == "stop" and base[i] == self.limits[i] for i, then in enumerate(self.used_up)):
                return stretches, start

    def _stretch(self, start: int, base: np.ndarray, left: list[int]) -> _Stretch:
        schedule, before = schedule_of([self.weights[i] for i in left])
        schedule = np.array(left)[schedule]
        return _Stretch(start, base, schedule, before, np.bincount(schedule, minlength=len(base)))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _used_up(stretch: _Stretch, source: int, limit: int) -> int:
    """Number of draws after which `source` has reached its limit."""
    rounds, rest = divmod(limit - int(stretch.base[source]) - 1, int(stretch.period[source]))
    place = np.flatnonzero(stretch.schedule == source)[rest]
    return stretch.start + rounds * len(stretch.schedule) + int(place) + 1


def schedule_of(weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """([P] source of each draw, [P] earlier draws of that source): a source's draws stand evenly over the period."""
    shares = np.array(weights, dtype=float) / sum(weights)
    period = _PERIOD if len(shares) > 1 else 1
    while shares.min() * period < _LEAST and 1 < period < _LONGEST_PERIOD:
        period *= 10
    counts = np.floor(shares * period).astype(np.int64)
    rest = np.argsort(counts - shares * period, kind="stable")  # largest remainders first
    counts[rest[: period - counts.sum()]] += 1
    source = np.repeat(np.arange(len(counts)), counts)
    before = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((source, (before + 0.5) / counts[source]))
    return source[order], before[order]
