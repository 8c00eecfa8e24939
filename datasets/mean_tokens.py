"""Tokens a sample of a source has on average: what turns shares of tokens into shares of samples.

Measured on a few hundred samples spread over the source, text only: a picture is one token and is not decoded. A run measures
once and keeps the figure with its checkpoints, since the order of its samples depends on it.
"""

from __future__ import annotations

from datasets.document import PART
from datasets.source import BadSample, Source, permuted
from vlm.processor import Processor
from vlm.sample import Segment, Text

SAMPLES = 512


def mean_tokens(source: Source, processor: Processor, length: int, samples: int = SAMPLES) -> float:
    """Mean over `samples` draws, bad ones as none; documents that are never cut count up to a row's `length`.

    Raises `ValueError` when none of them has a token.
    """
    count = min(samples, len(source))
    total = sum(_tokens(source, permuted(i, len(source), 0, 0), processor, length) for i in range(count))
    if not total:
        raise ValueError(f"source {source.name!r} has no text in the first {count} samples looked at: its tokens have no share")
    return total / count


def _tokens(source: Source, index: int, processor: Processor, length: int) -> float:
    try:
        sample = source.get(0, index)
        tokens = sum(_segment_tokens(segment, processor) for segment in sample.segments)
    except (BadSample, ValueError):
        return 0.0
    plain = all(segment.learn for segment in sample.segments if isinstance(segment, Text))
    return tokens if plain else min(tokens, length)


def _segment_tokens(segment: Segment, processor: Processor) -> float:
    if not isinstance(segment, Text) or segment.special:
        return 1.0
    beginning = segment.text[:PART]
    return len(processor.tokenize(beginning)) * len(segment.text) / max(1, len(beginning))
