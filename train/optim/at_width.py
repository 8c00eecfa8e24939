"""A model's configuration at another width of the decoder, all its parts grown or shrunk alike.

The number of heads grows: a head's size stays, and with it attention's 1/sqrt(h). Depth, experts, top-k, latents and vocabulary
stay too. A part that has no whole number of heads at a width takes the nearest, at least one. An encoder without a `width` and
`num_heads` of its own stays as its library has it.
"""

from __future__ import annotations

import dataclasses

from encoders import EncoderConfig
from vlm.config import DecoderConfig, FusionConfig, ModelConfig, ResamplerConfig


def at_width(config: ModelConfig, width: int) -> ModelConfig:
    """The configuration whose `decoder.dim` is `width`, itself at its own. Raises `ValueError` for a width that is not a whole
    number of the decoder's heads."""
    if width == config.decoder.dim:
        return config
    scale = width / config.decoder.dim
    resampler = None if config.resampler is None else _resampler(config.resampler, scale)
    return dataclasses.replace(
        config,
        encoder=_encoder(config.encoder, scale),
        resampler=resampler,
        fusion=_fusion(config.fusion, scale),
        decoder=_decoder(config.decoder, width),
    )


def _decoder(config: DecoderConfig, width: int) -> DecoderConfig:
    heads, part = divmod(config.num_heads * width, config.dim)
    if part or not heads:
        step = config.dim // config.num_heads
        raise ValueError(f"width {width} is not a whole number of the decoder's {config.num_heads} heads; they go by {step}")
    scale, kv_heads = width / config.dim, max(1, config.num_kv_heads * width // config.dim)
    while heads % kv_heads:
        kv_heads -= 1
    return dataclasses.replace(
        config,
        dim=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=config.head_size,
        shifted_kv_heads=min(kv_heads, config.shifted_kv_heads * width // config.dim),
        expert_dim=_near(config.expert_dim, scale),
        shared_dim=_near(config.shared_dim, scale) if config.shared_dim else 0,
        dense_dim=_near(config.dense_dim, scale) if config.dense_dim else None,
    )


def _fusion(config: FusionConfig, scale: float) -> FusionConfig:
    return dataclasses.replace(config, num_heads=_near(config.num_heads, scale), ffn_dim=_near(config.ffn_dim, scale))


def _resampler(config: ResamplerConfig, scale: float) -> ResamplerConfig:
    heads = _near(config.num_heads, scale)
    dim = heads * config.head_size if config.head_dim is None else 4 * _near(config.dim // 4, scale)  # a grid's codes go by 4
    return dataclasses.replace(config, dim=dim, num_heads=heads, ffn_dim=_near(config.ffn_dim, scale))


def _encoder(config: EncoderConfig, scale: float) -> EncoderConfig:
    if config.width is None or config.num_heads is None:
        return config
    heads = _near(config.num_heads, scale)
    width = heads * (config.width // config.num_heads)
    ffn_dim = None if config.ffn_dim is None else _near(config.ffn_dim, scale)
    return dataclasses.replace(config, width=width, num_heads=heads, ffn_dim=ffn_dim, pretrained=None)


def _near(size: int, scale: float) -> int:
    return max(1, round(size * scale))
