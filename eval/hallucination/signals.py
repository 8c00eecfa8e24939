"""What a model knows about each token of a text: two teacher-forced passes, one with the pictures and one without any.

Without pictures every gated layer is passed untouched, so the second pass is exactly the text decoder: an exact
counterfactual for `pmi`, the log-probability that the picture adds to a token.

T tokens of a text, B texts, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.models.own import device_of, inference
from vlm.batch import Batch
from vlm.model import VLM
from vlm.processor import Encoded, Processor
from vlm.sample import Sample


@dataclass(frozen=True, slots=True)
class TokenSignals:
    """One text. Arrays are float64 [T], in nats; `spans` are character ranges in `text`."""

    text: str
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    logprob: np.ndarray  # log p(token | picture, text before)
    logprob_text: np.ndarray  # log p(token | text before)

    @property
    def pmi(self) -> np.ndarray:
        """Pointwise mutual information of token and picture, given the text before."""
        return self.logprob - self.logprob_text

    @property
    def position(self) -> np.ndarray:
        return np.arange(len(self.tokens), dtype=float)


def read_signals(
    model: VLM,
    processor: Processor,
    prompts: Sequence[Sample],
    continuations: Sequence[Sequence[int]],
    batch_size: int = 32,
) -> list[TokenSignals]:
    """Signals of `continuations[i]` (token ids) after `prompts[i]`."""
    found: dict[int, TokenSignals] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(continuations[i]))
    with inference(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            documents = [_continued(processor.encode(prompts[i]), continuations[i]) for i in rows]
            batch = processor.collate([[document] for document in documents]).to(device_of(model))
            with_picture, without = _logprobs(model, batch), _logprobs(model, batch.without_images())
            for row, i in enumerate(rows):
                text, spans = token_spans(processor, continuations[i])
                found[i] = TokenSignals(text, tuple(continuations[i]), spans, with_picture[row], without[row])
    return [found[i] for i in range(len(prompts))]


def token_spans(processor: Processor, tokens: Sequence[int]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The decoded text and each token's characters in it; a token inside a multi-byte character gets an empty range."""
    prefixes = processor.tokenizer.decode_batch([list(tokens[: i + 1]) for i in range(len(tokens))], skip_special_tokens=True)
    text = prefixes[-1] if prefixes else ""
    ends = [len(prefix.rstrip("\ufffd")) if i < len(tokens) - 1 else len(text) for i, prefix in enumerate(prefixes)]
    ends = np.maximum.accumulate(ends).tolist() if ends else []
    return text, tuple(zip([0, *ends[:-1]], ends, strict=True)) if ends else ()


def _continued(prompt: Encoded, tokens: Sequence[int]) -> Encoded:
    """The prompt with `tokens` behind it, these alone to be predicted."""
    ids = np.concatenate([prompt.tokens, np.asarray(tokens, dtype=np.int64)])
    learn = np.arange(len(ids)) >= len(prompt)
    return dataclasses.replace(prompt, tokens=ids, learn=learn)


def _logprobs(model: VLM, batch: Batch) -> list[np.ndarray]:
    """Log-probability of each token to be predicted, an array a row."""
    return [row.double().cpu().numpy() for row in model.score(batch)]
