"""Any timm Vision Transformer (ViT, SigLIP, DINOv2, …) as an encoder, optionally with a convolutional stem."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from timm.layers import GroupNorm1, HybridEmbed
from timm.models import load_checkpoint
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor

from encoders.base import Encoder, EncoderConfig, library_errors
from encoders.positions import sincos_grid


class TimmEncoder(Encoder):
    """`VisionTransformer.forward_features` without its prefix tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        model = _create(config)
        data = timm.data.resolve_model_data_config(model)
        super().__init__(data["mean"], data["std"])
        self.model = model
        self.dim, self.grid = model.embed_dim, model.patch_embed.grid_size[0]

    def features(self, pixels: Tensor) -> Tensor:
        return self.model.forward_features(pixels)[:, self.model.num_prefix_tokens :]


def _create(config: EncoderConfig) -> VisionTransformer:
    if config.name not in timm.list_models():
        near = difflib.get_close_matches(config.name, timm.list_models(), 1)
        raise ValueError(f"timm has no model {config.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    numbers = {"patch_size": config.patch_size, "embed_dim": config.width, "depth": config.depth, "num_heads": config.num_heads}
    options: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if config.stem == "conv":
        options["embed_layer"] = _conv_stem
    if config.pretrained is None:
        options["weight_init"] = "jax"
    with library_errors(config):
        model = timm.create_model(
            config.name, img_size=config.image_size, num_classes=0, global_pool="", **options, **_weights(config)
        )
        if _is_file(config):
            _load_file(model, str(config.pretrained))
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"timm model {config.name!r} is a {type(model).__name__}, not a Vision Transformer")
    if config.pretrained is None:
        _start_positions(model)
    return model


@torch.no_grad()
def _start_positions(model: VisionTransformer) -> None:
    """Begin the learned positions at 2-D sines and cosines (the idea of MAE, He et al., 2022).

    timm's own start, a deviation of 0.02, is a thirtieth of a patch's content: a small encoder from scratch then spends most of
    a short training finding out where things are (docs/LOG.md, 2026-11-21).
    """
    if model.pos_embed is not None and model.embed_dim % 4 == 0:
        table = sincos_grid(model.patch_embed.grid_size[0], model.embed_dim)
        model.pos_embed[:, : -len(table)] = 0  # prefix tokens
        model.pos_embed[:, -len(table) :] = table


def _weights(config: EncoderConfig) -> dict[str, Any]:
    """timm's arguments for a tag of its hub, or for nothing."""
    if config.pretrained is None or _is_file(config):
        return {"pretrained": False}
    return {"pretrained": True, "pretrained_cfg": config.pretrained}


def _is_file(config: EncoderConfig) -> bool:
    return config.pretrained is not None and Path(config.pretrained).suffix != ""


def _load_file(model: VisionTransformer, path: str) -> None:
    """By timm, weights only. Without a classifier timm lets any tensor be missing, so what is missing is looked at here."""
    keys = load_checkpoint(model, path, strict=False, filter_fn=checkpoint_filter_fn, weights_only=True)
    if keys is not None and keys.missing_keys:  # None: an .npz of the original JAX models, which must be whole
        raise ValueError(f"{len(keys.missing_keys)} tensors are missing ({', '.join(keys.missing_keys[:3])})")


def _conv_stem(patch_size: int, in_chans: int, **kwargs: Any) -> HybridEmbed:
    """Stride-2 3x3 convolutions down to one cell a patch. Group norm: batch statistics would tie the images of a batch."""
    depth = round(math.log2(patch_size))
    if 2**depth != patch_size:
        raise ValueError(f"a convolutional stem needs a patch size that is a power of 2, not {patch_size}")
    channels = tuple(min(32 * 2**i, 256) for i in range(depth))
    stem = ConvStem(in_chans, depth, channels, stride=(2,) * depth, norm_layer=GroupNorm1)
    return HybridEmbed(stem, patch_size=1, in_chans=in_chans, **kwargs)
