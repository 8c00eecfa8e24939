"""Rotary positions (Su et al., 2021), and the ways to stretch them beyond the context they were trained on.

    linear    all positions divided by the factor (Chen et al., 2023)
    dynamic   a larger base, growing with the document, once it is longer than the original context ("dynamic NTK")
    yarn      pairs that turn fast stay, pairs that turn slowly are interpolated, a ramp between (Peng et al., 2023)
    llama3    as yarn, with the ramp over wavelengths (Llama Team, 2024, section 3.4.3)

The table is made at run time from positions and config: there is no buffer to keep in step with them. Arithmetic is float32, in
the order that the published models were trained with. `dynamic` goes by the length of each document alone, so a batch's other
rows change nothing; what a cache has kept was made with the length that its document had then, as in transformers, so writing
on past the original context is not the same as reading the whole again.

B rows, T tokens, h head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm.config import DecoderConfig, RopeScaling

RotaryTable = tuple[Tensor, Tensor]  # cosines and sines, float32 [B, 1, T, h]


def rotary_table(positions: Tensor, document: Tensor, config: DecoderConfig) -> RotaryTable:
    """Positions and document numbers [B, T] → the table, in the halves layout of Llama: pair i is (i, i + h/2)."""
    exponent = torch.arange(0, config.head_size, 2, device=positions.device, dtype=torch.float32) / config.head_size
    base, gain, scaling = config.rope_theta, 1.0, config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        base = _dynamic_base(config, scaling, _document_lengths(positions, document))[:, None, :, None]
    frequency = 1.0 / base**exponent
    if scaling is not None and scaling.kind != "dynamic":
        frequency = _STRETCH[scaling.kind](frequency, config, scaling)
        gain = _attention_factor(scaling)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * gain, angle.sin() * gain


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Turn each pair of [B, H, T, h] by its position's angle."""
    cos, sin = table
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def _document_lengths(positions: Tensor, document: Tensor) -> Tensor:
    """[B, T]: how long, up to here, is the document that a token stands in."""
    slot = document + 1  # padding is a document of its own
    longest = positions.new_zeros(positions.shape[0], int(slot.max()) + 1)
    return longest.scatter_reduce(1, slot, positions + 1, "amax").gather(1, slot)


def _dynamic_base(config: DecoderConfig, scaling: RopeScaling, length: Tensor) -> Tensor:
    stretch = length.clamp(min=scaling.original_length) * scaling.factor / scaling.original_length - (scaling.factor - 1)
    return config.rope_theta * stretch ** (config.head_size / (config.head_size - 2))


def _linear(frequency: Tensor, config: DecoderConfig, scaling: RopeScaling) -> Tensor:
    return frequency / scaling.factor


def _yarn(frequency: Tensor, config: DecoderConfig, scaling: RopeScaling) -> Tensor:
    """Eq. 18-21 of the paper, in terms of the pair whose wavelength turns `beta` times over the original context."""

    def pair(beta: float) -> float:
        return config.head_size * math.log(scaling.original_length / (beta * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_size - 1)
    index = torch.arange(len(frequency), device=frequency.device, dtype=torch.float32)
    kept = 1 - ((index - low) / (high - low or 0.001)).clamp(0, 1)
    return frequency / scaling.factor * (1 - kept) + frequency * kept


def _llama3(frequency: Tensor, config: DecoderConfig, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_length / (2 * math.pi / frequency)  # over the original context
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return (1 - kept) * frequency / scaling.factor + kept * frequency


def _attention_factor(scaling: RopeScaling) -> float:
    if scaling.kind != "yarn":
        return 1.0
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.attention_factor is None else scaling.attention_factor


_STRETCH = {"linear": _linear, "yarn": _yarn, "llama3": _llama3}
