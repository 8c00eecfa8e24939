"""How the next token is chosen: the options, what they do to the logits, and the draw.

The order is that of transformers' logits processors: repetition penalty, temperature, top-k, top-p, min-p. A draw takes one
uniform number a row and step, made on the CPU from (seed, number of the sample, step) alone: what stands beside a row in the
batch, its place there and the device do not matter.

B rows, V vocabulary.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options of `VLM.generate`; temperature 0 is greedy. Raises `ValueError` for what means nothing, or not together."""

    max_new_tokens: int = 64
    stop_ids: Sequence[int] = ()  # each ends a row and is left out of it
    temperature: float = 0.0
    top_k: int = 0  # draw among the k likeliest tokens (and those as likely as the k-th); 0 = all
    top_p: float = 1.0  # … among the smallest set that holds this probability (Holtzman et al., 2020)
    min_p: float = 0.0  # … among those at least this share as likely as the likeliest (Nguyen et al., 2024)
    # Logits of tokens in the prompt or written so far are divided by it, negative ones multiplied (Keskar et al., 2019);
    # in beam search, log-probabilities instead of logits.
    repetition_penalty: float = 1.0
    num_samples: int = 1  # rows for each prompt, which is read once; of a beam search, its best
    num_beams: int = 1  # above 1: beam search
    length_penalty: float = 1.0  # a beam's score is its log-probability / length**length_penalty, the stop token counted
    seed: int | Sequence[int] = 0  # one for all prompts (equal prompts then give equal samples), or one a prompt

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "num_samples", "num_beams"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), Real), "a number")
        object.__setattr__(self, "stop_ids", tuple(_whole("stop_ids", token) for token in _each("stop_ids", self.stop_ids)))
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 0, "0 or more")
        possible = self.temperature == 0 or 1e-4 <= self.temperature < math.inf  # below, logits overflow
        _check("temperature", self.temperature, possible, "0, or 0.0001 or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0")
        _check("num_samples", self.num_samples, self.num_samples >= 1, "1 or more")
        _check("num_beams", self.num_beams, self.num_beams >= 1, "1 or more")
        _check("length_penalty", self.length_penalty, math.isfinite(self.length_penalty), "finite")
        alone = hasattr(self.seed, "__index__")
        seeds = [_whole("seed", seed) for seed in ([self.seed] if alone else _each("seed", self.seed))]
        for seed in seeds:
            _check("seed", seed, seed >= 0, "0 or more")
        object.__setattr__(self, "seed", seeds[0] if alone else seeds)
        self._check_together()

    def _check_together(self) -> None:
        drawing = {"top_k": self.top_k > 0, "top_p": self.top_p < 1, "min_p": self.min_p > 0}
        if self.num_beams > 1:
            if self.temperature > 0:
                raise ValueError(
                    f"temperature {self.temperature} does not go with num_beams {self.num_beams}: nothing is drawn"
                )
            if self.num_samples > self.num_beams:
                raise ValueError(f"num_samples {self.num_samples} is more than num_beams {self.num_beams}")
        elif self.num_samples > 1 and self.temperature == 0:
            raise ValueError(f"num_samples {self.num_samples} at temperature 0 would be the same text each time")
        elif self.length_penalty != 1:
            raise ValueError(f"length_penalty {self.length_penalty} needs num_beams above 1")
        for name in [name for name, used in drawing.items() if used and self.temperature == 0]:
            raise ValueError(f"{name} {getattr(self, name)} needs a temperature above 0: nothing is drawn")

    def seeds(self, prompts: int) -> list[int]:
        """One seed a prompt."""
        seeds = [self.seed] * prompts if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != prompts:
            raise ValueError(f"there are {len(seeds)} seeds for {prompts} prompts")
        return seeds


def _whole(name: str, value: Any) -> int:
    """Numpy's whole numbers, too."""
    _check(name, value, hasattr(value, "__index__") and not isinstance(value, bool), "a whole number")
    return operator.index(value)


def _each(name: str, values: Any) -> Iterable[Any]:
    _check(name, values, isinstance(values, Iterable), "a sequence of whole numbers")
    return values


def _check(name: str, value: Any, holds: bool, meaning: str) -> None:
    if not holds:
        raise ValueError(f"{name} {value} is not {meaning}")


class Chooser:
    """Chooses the next token of each row, and keeps what that takes: tokens seen so far, and a source of noise a row."""

    def __init__(self, options: Sampling, prompts: Tensor, real: Tensor, vocab_size: int) -> None:
        """`prompts` [B, T] ids, `real` [B, T]: is a token more than padding. Rows are `num_samples` a prompt, in order."""
        self.options = options
        seeds = options.seeds(len(prompts))
        drawing = range(options.num_samples if options.temperature else 0)
        self.noise = [np.random.default_rng((seed, sample)) for seed in seeds for sample in drawing]
        self.seen = None
        if options.repetition_penalty != 1:
            self.seen = seen_tokens(prompts, real, vocab_size).repeat_interleave(options.num_samples, dim=0)

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B]"""
        uniform = self.uniform()
        return self.choose(logits, None if uniform is None else uniform.to(logits.device))

    @property
    def plain(self) -> bool:
        """Is the likeliest token taken, whatever was written before?"""
        return self.options.temperature == 0 and self.seen is None

    def uniform(self) -> Tensor | None:
        """What the next draw takes: a number in [0, 1) a row, float64 [B] on the CPU; `None` where nothing is drawn."""
        if self.options.temperature == 0:
            return None
        return torch.tensor([noise.random() for noise in self.noise], dtype=torch.float64)

    def choose(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """`__call__` with the numbers given; it does not wait for the device."""
        scores = logits if self.seen is None else penalize(logits, self.seen, self.options.repetition_penalty)
        tokens = scores.argmax(dim=-1) if uniform is None else draw(narrow(scores, self.options), uniform)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        return tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.noise = [self.noise[row] for row in rows] if self.noise else []
        self.seen = None if self.seen is None else self.seen[list(rows)]


def seen_tokens(tokens: Tensor, real: Tensor, vocab_size: int) -> Tensor:
    """[B, T] ids and which of them count → bool [B, V]."""
    seen = torch.zeros(len(tokens), vocab_size + 1, dtype=torch.bool, device=tokens.device)
    return seen.scatter_(1, torch.where(real, tokens, vocab_size), True)[:, :-1].contiguous()


def penalize(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """[B, V] scores with those of `seen` tokens made smaller (penalty above 1)."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def narrow(logits: Tensor, options: Sampling) -> Tensor:
    """[B, V] logits at the temperature, -inf where a token may not be drawn."""
    logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(options.top_k).values[:, -1:], -math.inf)
    if options.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - options.top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(1, order, outside), -math.inf)
    if options.min_p > 0:
        probability = logits.softmax(dim=-1)
        logits = logits.masked_fill(probability < options.min_p * probability.amax(dim=-1, keepdim=True), -math.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B, V] and [B] in [0, 1) → [B]: the token in whose share of [0, 1) the number falls, shares in order of ids.

    In order of ids, not of probability: nearly equal tokens may change places from device to device.
    """
    ends = logits.double().softmax(dim=-1).cumsum(dim=-1)
    total = ends[:, -1:]
    below = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, below, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)  # beyond: not a number
