"""Prompts read by a recorded forward pass of the model: a short prompt's time is that of launching hundreds of small kernels.

The pass is recorded for a number of tokens that is a multiple of COLUMNS; shorter prompts are padded to it. What the network
knows of a batch as plain numbers is part of what must fit, or is replaced by the most that it can be. The first prompts of a
kind are read as they are; the second time the pass runs on fixed tensors, the third it is recorded. Prompts of more than
MOST_TOKENS or MOST_PICTURES in all keep the GPU busy as it is, and caches of more than MOST_PLACES tokens take much memory.

B rows, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm.batch import Batch
from vlm.cache import Cache
from vlm.config import DecoderConfig
from vlm.decode_graph import Recording, met_before, put_back, take
from vlm.moe import in_one_kernel

if TYPE_CHECKING:
    from vlm.writer import Writer

COLUMNS = 64
MOST_TOKENS = 2048
MOST_PLACES = 4096
MOST_PICTURES = 8
KEPT = 4  # readings of a model


@dataclass
class Reading:
    """What a recorded pass works at: `batch` in, `cache` and `logits` [B, V] out."""

    key: Hashable
    batch: Batch
    cache: Cache
    logits: Tensor | None = None
    recording: Recording = field(default_factory=Recording)

    def close(self, model: Writer) -> None:
        size = sum(t.nbytes for t in (*_tensors(self.batch), *self.cache.tensors()))
        put_back(model, "prompts", self.key, self, KEPT, size)


def read(model: Writer, batch: Batch, length: int, key: Hashable) -> tuple[Tensor, Cache, Reading | None]:
    """Logits [B, V] after each row's last token and a cache for `length` tokens; `key` is of `recording_key`.

    A `Reading` that comes with them is to be closed when these are no longer used: its next pass overwrites them.
    """
    weight = model.decoder.embedding.weight
    few = batch.tokens.numel() <= MOST_TOKENS and len(batch.images) <= MOST_PICTURES
    if few and len(batch.tokens) * length <= MOST_PLACES and not waits(model.decoder.config, weight):
        batch = batch.in_whole(COLUMNS)
        key = (tuple(t.shape for t in _tensors(batch)), length, batch.extent, key)
        reading = take(model, "prompts", key)
        if reading is not None:
            torch._foreach_copy_(_tensors(reading.batch), _tensors(batch))
        elif met_before(model, key):
            reading = Reading(key, batch.copied(), _cache(model, batch, length))
        if reading is not None:
            return *_read(model, reading), reading
    cache = _cache(model, batch, length)
    return model.read_prompts(batch, cache), cache, None


def _cache(model: Writer, batch: Batch, length: int) -> Cache:
    weight = model.decoder.embedding.weight
    return Cache.empty(model.decoder.config, len(batch.tokens), length, weight.device, weight.dtype)


def _read(model: Writer, reading: Reading) -> tuple[Tensor, Cache]:
    def forward() -> None:
        reading.logits = model.read_prompts(reading.batch, reading.cache)

    with torch.cuda.device_of(reading.batch.tokens):
        reading.recording.run(forward, reading.batch.tokens.device)
    return reading.logits, dataclasses.replace(reading.cache, layers=[copy.copy(layer) for layer in reading.cache.layers])


def waits(config: DecoderConfig, weight: Tensor) -> bool:
    """Does the host wait for the device in a forward pass with weights as this one? Then it cannot be recorded."""
    routed = {config.ffn_dim(layer) for layer in range(config.num_layers) if config.is_moe(layer)}
    grouped = not weight.is_cuda or not routed or in_one_kernel(weight.dtype, config.dim, *routed)
    return not grouped or (config.rope_scaling is not None and config.rope_scaling.kind == "dynamic")


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, f.name) for f in dataclasses.fields(batch)]
