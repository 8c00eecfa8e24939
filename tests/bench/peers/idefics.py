"""transformers' Idefics of the same shape, and a batch of ours as its inputs.

A token's mask names the last picture before it, as its own processor has it and as ours see. Pictures are handed over already
normalised, in the model's type, which spares it work that ours does.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from tests.bench.shapes import ImageText
from vlm import Batch


def idefics(shape: ImageText, device: str, dtype: torch.dtype, *, frozen: bool = True) -> IdeficsForVisionText2Text:
    """`frozen`: text, its head included, and vision; resampler and gated blocks learn. Without experts, which it has not."""
    config = IdeficsConfig(
        **dataclasses.asdict(shape.idefics),
        freeze_text_layers=frozen, freeze_lm_head=frozen, freeze_vision_layers=frozen,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device(device):
        return IdeficsForVisionText2Text(config).to(dtype)


def inputs(batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of rows that all have as many pictures, one document each."""
    rows = len(batch.tokens)
    per_row = batch.num_media // rows
    pixels = (batch.images.float() / 255 - 0.45) / 0.27
    slot = batch.image_index - per_row * torch.arange(rows, device=batch.tokens.device)[:, None]
    mask = slot[..., None] == torch.arange(per_row, device=slot.device)
    return {
        "input_ids": batch.tokens,
        "attention_mask": torch.ones_like(batch.tokens),
        "pixel_values": pixels.to(dtype).unflatten(0, (rows, per_row)),
        "image_attention_mask": mask.long(),
    }
