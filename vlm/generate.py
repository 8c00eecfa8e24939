"""Generation with a cache: a prompt is read once, then one token a row and step.

B rows, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm.batch import Batch
from vlm.cache import Cache

if TYPE_CHECKING:
    from vlm.model import VLM


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; `top_p` is nucleus sampling (Holtzman et al., 2020)."""

    max_new_tokens: int = 64
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} is negative")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} is not 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not above 0 and at most 1")


@dataclass(frozen=True)
class Generated:
    """For each row its new tokens, the stop token left out, and the model's log-probability of each (at temperature 1)."""

    tokens: list[list[int]]
    logprobs: list[list[float]]


def steps(model: VLM, batch: Batch, options: Sampling) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (tokens [B], log-probabilities [B]) until every row has stopped or the limit is reached.

    Rows that have stopped go on producing tokens that nobody reads. Raises `ValueError` on rows with several documents.
    """
    if (batch.document > 0).any():
        raise ValueError("generation takes one document a row")
    rows, longest = batch.tokens.shape
    weight = model.decoder.embedding.weight
    cache = Cache.empty(model.config.decoder, rows, longest + options.max_new_tokens, weight.device, weight.dtype)
    batch, cache.media = model.media(batch)
    generator = torch.Generator(weight.device).manual_seed(options.seed)
    stops = torch.tensor(options.stop_ids, device=weight.device, dtype=torch.int64)
    running = torch.ones(rows, dtype=torch.bool, device=weight.device)
    for _ in range(options.max_new_tokens):
        logprobs = model.decode_step(batch, cache).float().log_softmax(dim=-1)
        tokens = choose(logprobs, options, generator)
        yield tokens, logprobs.gather(1, tokens[:, None])[:, 0]
        running &= ~torch.isin(tokens, stops)
        if not running.any():
            return
        batch = _next(batch, tokens)


def choose(logprobs: Tensor, options: Sampling, generator: torch.Generator) -> Tensor:
    """[B, V] → [B]"""
    if options.temperature == 0:
        return logprobs.argmax(dim=-1)
    probability, order = (logprobs / options.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    outside = probability.cumsum(dim=-1) - probability >= options.top_p
    index = torch.multinomial(probability.masked_fill(outside, 0.0), 1, generator=generator)
    return order.gather(1, index)[:, 0]


def _next(batch: Batch, tokens: Tensor) -> Batch:
    """The batch of one new token a row, at the position after the row's last, seeing what the last one saw."""
    last = (batch.lengths - 1).clamp(min=0)[:, None]
    return dataclasses.replace(
        batch,
        tokens=tokens[:, None],
        labels=batch.labels[:, :1],
        positions=batch.positions.gather(1, last) + 1,
        document=torch.zeros_like(last),
        image_index=batch.image_index.gather(1, last),
    )


def collect(stream: Iterable[tuple[Tensor, Tensor]], rows: int, stop_ids: tuple[int, ...]) -> Generated:
    """Cut each row at its first stop token."""
    pairs = [(tokens.tolist(), logprobs.tolist()) for tokens, logprobs in stream]
    out = Generated([[] for _ in range(rows)], [[] for _ in range(rows)])
    for row in range(rows):
        for tokens, logprobs in pairs:
            if tokens[row] in stop_ids:
                break
            out.tokens[row].append(tokens[row])
            out.logprobs[row].append(logprobs[row])
    return out
