"""Prompts read by a recorded forward pass of the model: a short prompt's time is that of launching hundreds of small kernels.

The pass is recorded for a number of tokens that is a multiple of COLUMNS; shorter prompts are padded to it. What the network
knows of a batch as plain numbers is part of what must fit, or is replaced by the most that it can be. The first prompts of a
kind are read as they are; the second time the pass runs on fixed tensors, the third it is recorded. Prompts of more than
MOST_TOKENS in all keep the GPU busy as it is, and large caches (more than MOST_PLACES tokens) are not kept.

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
from vlm.decode_graph import Recording, put_back, take
from vlm.moe import in_one_kernel

if TYPE_CHECKING:
    from vlm.writer import Writer

COLUMNS = 64
MOST_TOKENS = 2048
MOST_PLACES = 4096
KEPT = 4  # readings of a model


@dataclass
class Reading:
    """What a recorded pass works at: `batch` in, `cache` and `logits` [B, V] out. The first time there is nothing of it."""

    key: Hashable
    batch: Batch | None = None
    cache: Cache | None = None
    logits: Tensor | None = None
    recording: Recording = field(default_factory=Recording)

    def close(self, model: Writer) -> None:
        put_back(model, "prompts", self.key, self, KEPT)


def read(model: Writer, batch: Batch, length: int, key: Hashable) -> tuple[Tensor, Cache, Reading | None]:
    """Logits [B, V] after each row's last token and a cache for `length` tokens; `key` is of `recording_key`.

    A `Reading` that comes with them is to be closed when these are no longer used: its next pass overwrites them.
    """
    weight = model.decoder.embedding.weight
    reading = None
    few = batch.tokens.numel() <= MOST_TOKENS and len(batch.tokens) * length <= MOST_PLACES
    if few and not waits(model.decoder.config, weight):
        batch = batch.in_whole(COLUMNS)
        key = (tuple(t.shape for t in _tensors(batch)), length, batch.extent, key)
        reading = take(model, "prompts", key)
        if reading is None:
            put_back(model, "prompts", key, Reading(key), KEPT)
    if reading is None:
        cache = Cache.empty(model.decoder.config, len(batch.tokens), length, weight.device, weight.dtype)
        return model.read_prompts(batch, cache), cache, None
    return *_read(model, batch, reading, length), reading


def _read(model: Writer, batch: Batch, reading: Reading, length: int) -> tuple[Tensor, Cache]:
    if reading.batch is None or reading.cache is None:
        weight = model.decoder.embedding.weight
        reading.batch = batch.copied()
        reading.cache = Cache.empty(model.decoder.config, len(batch.tokens), length, weight.device, weight.dtype)
    else:
        torch._foreach_copy_(_tensors(reading.batch), _tensors(batch))

    def forward() -> None:
        reading.logits = model.read_prompts(reading.batch, reading.cache)

    with torch.cuda.device_of(batch.tokens):
        reading.recording.run(forward, batch.tokens.device)
    return reading.logits, dataclasses.replace(reading.cache, layers=[copy.copy(layer) for layer in reading.cache.layers])


def waits(config: DecoderConfig, weight: Tensor) -> bool:
    """Does the host wait for the device in a forward pass with weights as this one? Then it cannot be recorded."""
    routed = {config.ffn_dim(layer) for layer in range(config.num_layers) if config.is_moe(layer)}
    grouped = not weight.is_cuda or not routed or in_one_kernel(weight.dtype, config.dim, *routed)
    return not grouped or (config.rope_scaling is not None and config.rope_scaling.kind == "dynamic")


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, f.name) for f in dataclasses.fields(batch)]
