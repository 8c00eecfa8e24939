"""Tokens a sample of a source has on average: what turns shares of tokens into shares of samples.

Measured on a few hundred samples spread over the source, as a row would take them (datasets/document.py), but with no picture
decoded. A run measures once and keeps the figure with its checkpoints, since the order of its samples depends on it.
"""

from __future__ import annotations

from datasets.document import PART, read_part
from datasets.source import BadSample, Source, permuted
from vlm.processor import Processor
from vlm.sample import Text

SAMPLES = 512


def mean_tokens(source: Source, processor: Processor, length: int, max_images: int, samples: int = SAMPLES) -> float:
    """Mean over `samples` draws, bad ones as none; documents that are never cut count up to a row's `length`.

    Raises `ValueError` when none of them has a token.
    """
    count = min(samples, len(source))
    places = (permuted(i, len(source), 0, 0) for i in range(count))
    total = sum(_tokens(source, place, processor, length, max_images) for place in places)
    if not total:
        raise ValueError(f"source {source.name!r} has no text in the first {count} samples looked at: its tokens have no share")
    return total / count


def _tokens(source: Source, index: int, processor: Processor, length: int, max_images: int) -> float:
    """Of a document in parts the first stands for all."""
    try:
        sample = source.get(0, index)
        part = read_part(sample, processor, number=0, length=length, max_images=max_images)
    except BadSample:
        return 0.0
    characters = sum(len(segment.text) for segment in sample.segments if isinstance(segment, Text))
    return len(part.document) * (characters / PART if part.parts > 1 else 1)
