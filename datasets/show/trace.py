"""Which sample each token of a packed row came from.

A tokenized document's ids carry its number in their upper half through the packer, which never looks at an id. So whatever
cutting, reordering and joining happens between here and the batch, every token still says where it belongs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.batch import IGNORE, Batch
from vlm.processor import Encoded, Processor
from vlm.sample import Sample

SHIFT = 32  # bits of an id below the document's number
_IDS = (1 << SHIFT) - 1


@dataclass(slots=True)
class Document:
    """One tokenized sample, and how much of it has been seen in rows."""

    key: str
    source: str
    tokens: int  # of the whole sample
    frames: int  # likewise: pictures, and those of its clips
    packed: int = 0  # tokens seen in rows
    learnt: int = 0  # of those, tokens that are predicted
    images: int = 0  # frames seen in rows


class Tracer(Processor):
    """`processor`, with every id tagged by its document's place in `documents`."""

    def __init__(self, processor: Processor) -> None:
        self.__dict__.update(processor.__dict__)
        self.documents: list[Document] = []

    def encode_text(self, sample: Sample) -> Encoded:
        encoded = super().encode_text(sample)
        frames = sum(len(frames) for _, frames, _ in encoded.media)
        self.documents.append(Document(sample.key, sample.source, len(encoded), frames))
        return dataclasses.replace(encoded, tokens=encoded.tokens + (len(self.documents) << SHIFT))


def untag(batch: Batch) -> tuple[Batch, Tensor]:
    """The batch with plain ids, and [B, T] the place in `documents` of each token's sample, -1 = padding."""
    labels = torch.where(batch.labels == IGNORE, IGNORE, batch.labels & _IDS)
    return dataclasses.replace(batch, tokens=batch.tokens & _IDS, labels=labels), (batch.tokens >> SHIFT) - 1
