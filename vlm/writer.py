"""What a model that writes can do: `generate`, `stream` and `score`, for a whole model and for a text decoder alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm import generate as generation
from vlm.batch import IGNORE, Batch
from vlm.beam import beam_search
from vlm.cache import Cache
from vlm.losses import token_logprobs
from vlm.sampling import Sampling

if TYPE_CHECKING:
    from vlm.decoder import TextDecoder


class Writer:
    """A part of `VLM` and `TextDecoder`; below is what they must have for it."""

    decoder: TextDecoder

    def states(self, batch: Batch) -> Tensor:
        """[B, T, D] before the head."""
        raise NotImplementedError

    def read_prompts(self, batch: Batch, cache: Cache) -> Tensor:
        """Logits [B, V] after the last token of each row, filling an empty cache."""
        raise NotImplementedError

    def decode_step(self, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Logits [B, V] after one more token [B] in each row of the cache, at `positions` [B]."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, batch: Batch, *, ends: generation.Ends | None = None, **options: Any) -> generation.Generated:
        """Continue each row's prompt (one document a row, ragged, right-padded); `options` are the fields of `vlm.Sampling`.

        `ends` is asked after each new token of a row whether the row's new tokens end its text.
        """
        sampling = Sampling(**options)
        if sampling.num_beams > 1:
            return beam_search(self, batch, sampling, ends)
        rows = len(batch.tokens) * sampling.num_samples
        return generation.collect(generation.steps(self, batch, sampling, ends), rows, sampling.stop_ids)

    @torch.no_grad()
    def stream(self, batch: Batch, **options: Any) -> Iterator[tuple[int, float]]:
        """The tokens of a single prompt as they come, each with its log-probability; `options` as for `generate`."""
        sampling = Sampling(**options)
        if len(batch.tokens) != 1:
            raise ValueError(f"stream takes one prompt, not {len(batch.tokens)}")
        if sampling.num_samples != 1:
            raise ValueError(f"num_samples {sampling.num_samples} cannot be streamed: take one")
        if sampling.num_beams != 1:
            raise ValueError(f"num_beams {sampling.num_beams} cannot be streamed: beams are chosen at the end")
        for (new,) in generation.steps(self, batch, sampling):
            if new.token in sampling.stop_ids:
                return
            yield new.token, new.logprob

    @torch.no_grad()
    def score(self, batch: Batch) -> list[Tensor]:
        """The log-probability of each token to be predicted (a label that is not IGNORE), a tensor [learnt tokens] a row."""
        chosen = batch.labels != IGNORE
        found = token_logprobs(self.states(batch)[chosen], batch.labels[chosen], self.decoder.head_weight)
        return list(found.split(chosen.sum(dim=1).tolist()))
