"""Any timm Vision Transformer (ViT, SigLIP, DINOv2, …) as an encoder, optionally with a convolutional stem."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import timm
import timm.data
from timm.layers import GroupNorm1, HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor

from encoders.base import Encoder, EncoderConfig


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
    base = config.name.split(".")[0]
    if base not in timm.list_models():
        near = difflib.get_close_matches(base, timm.list_models(), 1)
        raise ValueError(f"timm has no model {config.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    numbers = {"patch_size": config.patch_size, "embed_dim": config.width, "depth": config.depth, "num_heads": config.num_heads}
    options: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if config.stem == "conv":
        options["embed_layer"] = _conv_stem(config.patch_size or 16)
    model = timm.create_model(base, img_size=config.image_size, num_classes=0, global_pool="", **options, **_weights(config))
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"timm model {config.name!r} is a {type(model).__name__}, not a Vision Transformer")
    return model


def _weights(config: EncoderConfig) -> dict[str, Any]:
    """timm's arguments for: nothing, a local file, or a tag of its hub. timm loads files weights-only."""
    if config.pretrained is None:
        return {"pretrained": False}
    if Path(config.pretrained).suffix:
        if not Path(config.pretrained).is_file():
            raise ValueError(f"encoder weights file {config.pretrained} does not exist")
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": config.pretrained}}
    return {"pretrained": True, "pretrained_cfg": config.pretrained}


def _conv_stem(patch_size: int) -> Any:
    """Stride-2 3x3 convolutions down to one cell a patch. Group norm: batch statistics would tie the images of a batch."""
    depth = round(math.log2(patch_size))
    if 2**depth != patch_size:
        raise ValueError(f"a convolutional stem needs a patch size that is a power of 2, not {patch_size}")
    channels = tuple(min(32 * 2**i, 256) for i in range(depth))

    def embed(patch_size: Any, in_chans: int, **kwargs: Any) -> HybridEmbed:
        stem = ConvStem(in_chans, depth, channels, stride=(2,) * depth, norm_layer=GroupNorm1)
        return HybridEmbed(stem, patch_size=1, in_chans=in_chans, **kwargs)

    return embed
