"""Any timm Vision Transformer (ViT, SigLIP, DINOv2 and v3, EVA, BEiT, …) as an encoder, optionally with a convolutional stem.

"Any" is what has blocks over a grid of patches after its prefix tokens: windows and pyramids (Swin, …) are refused by name.
Models whose library form norms only the pooled vector give their tokens without a last norm, as timm does.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from timm.layers import GroupNorm1, HybridEmbed
from timm.models import get_pretrained_cfg, is_model_in_modules, load_pretrained, model_entrypoint
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from encoders.base import Encoder, EncoderConfig, Pixels, check_whole
from encoders.library import is_file, known, library_errors
from encoders.positions import sincos_grid
from encoders.weights import check_weights, read_weights

Vit = Any  # timm's classes share no base and declare few attributes: see `is_vit`
JAX_INIT = ("vision_transformer", "vision_transformer_hybrid", "deit")  # timm's modules that know `weight_init`


class TimmEncoder(Encoder):
    """`forward_features` of the named model."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.model: Vit = _create(config)
        self.dim, self.grid = self.model.num_features, self.model.patch_embed.grid_size[0]
        check_whole(config, self.model.patch_embed.feat_ratio(), self.model.pretrained_cfg["input_size"][-1])
        self.num_prefix_tokens = self.model.num_prefix_tokens if config.prefix_tokens else 0

    @property
    def stem(self) -> nn.Module | None:
        return self.model.patch_embed if self.config.stem == "conv" else None

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        return self.model.blocks

    def features(self, pixels: Tensor) -> Tensor:
        tokens = self.model.forward_features(pixels)
        return tokens if self.config.prefix_tokens else tokens[:, self.model.num_prefix_tokens :]


def pixels(config: EncoderConfig) -> Pixels:
    """Of the tag, or of timm's first for this name where `pretrained` is a file or nothing."""
    _check_name(config)
    tag = f".{config.pretrained}" if config.pretrained is not None and not is_file(config) else ""
    published = get_pretrained_cfg(config.name + tag)
    data = timm.data.resolve_data_config(pretrained_cfg=published.to_dict() if published else {})
    return Pixels(data["mean"], data["std"], "bilinear" if data["interpolation"] == "bilinear" else "bicubic")


def _check_name(config: EncoderConfig) -> None:
    known("timm has no model", config.name, timm.list_models())
    if config.pretrained is not None and not is_file(config):
        tags = [name.partition(".")[2] for name in timm.list_models(f"{config.name}.*", pretrained=True)]
        known(f"timm model {config.name!r} has no weights", config.pretrained, tags)


def _create(config: EncoderConfig) -> Vit:
    _check_name(config)  # timm would take an address for a name
    tag = None if is_file(config) else config.pretrained
    with library_errors(config):
        model: Vit = timm.create_model(
            config.name, pretrained_cfg=tag, img_size=config.image_size, num_classes=0, **_options(config)
        )
    if not is_vit(model):
        raise ValueError(f"timm model {config.name!r} is a {type(model).__name__}, not a Vision Transformer")
    unused = unused_names(model)
    only_tokens(model, config)
    if config.pretrained is None:
        _start_positions(model)
    else:
        _load(model, config, unused)
    return model


def _options(config: EncoderConfig) -> dict[str, Any]:
    """timm's arguments for what the config replaces."""
    fields: dict[str, Any] = {
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "act_layer": config.activation,
        "embed_layer": _conv_stem if config.stem == "conv" else None,
        "weight_init": "jax" if config.pretrained is None and is_model_in_modules(config.name, JAX_INIT) else None,
    }
    if config.ffn_dim is not None:
        fields["mlp_ratio"] = (config.ffn_dim + 0.5) / (config.width or _own_width(config.name))  # timm rounds down
    return {name: value for name, value in fields.items() if value is not None}


def _own_width(name: str) -> int:
    with torch.device("meta"):
        model: Vit = timm.create_model(name)
    return model.num_features


def is_vit(model: nn.Module) -> bool:
    return (
        hasattr(model, "num_prefix_tokens")
        and hasattr(model, "blocks")
        and hasattr(getattr(model, "patch_embed", None), "grid_size")
    )


def unused_names(model: Vit) -> set[str]:
    """Tensors that weights of the whole model may bring beside the tokens' own: classifier, pooling, last norms."""
    classifiers = model.pretrained_cfg.get("classifier") or ()
    heads = (classifiers,) if isinstance(classifiers, str) else classifiers
    names = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    return names | {name for name in model.state_dict() if name.startswith(("attn_pool.", "fc_norm.", "norm."))}


def only_tokens(model: Vit, config: EncoderConfig) -> None:
    """Drop what follows the tokens, which would be parameters without gradient, and set the norms."""
    model.reset_classifier(0, "")
    model.fc_norm = nn.Identity()
    if not config.final_norm:
        model.norm = nn.Identity()
    set_norm_eps(model, config)


def set_norm_eps(model: Vit, config: EncoderConfig) -> None:
    if config.norm_eps is not None:
        for norm in (module for module in model.modules() if hasattr(module, "normalized_shape")):
            norm.eps = config.norm_eps


def _load(model: Vit, config: EncoderConfig, unused: set[str]) -> None:
    """The weights of the tag or file, wherever timm says they are; all of the model's tensors, and none too many."""
    source = dict(model.pretrained_cfg)
    if is_file(config) and Path(str(config.pretrained)).suffix == ".npz":
        source |= {"file": config.pretrained, "custom_load": True}  # of the original JAX models
    elif is_file(config):
        source |= {"state_dict": read_weights(str(config.pretrained))}

    def fitting(weights: dict[str, Tensor], model: Vit) -> dict[str, Tensor]:
        return needed(model, converted(weights, model, config.name), unused, str(config.pretrained))

    with library_errors(config):
        load_pretrained(model, source, num_classes=0, filter_fn=fitting)


def converted(weights: dict[str, Tensor], model: Vit, name: str) -> dict[str, Tensor]:
    """timm's own conversion of other layouts, and resampling of positions and patches, for the named model."""
    convert = getattr(sys.modules[model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    return weights if convert is None else convert(weights, model, **_resampling(name))


def needed(model: Vit, weights: dict[str, Tensor], unused: set[str], source: str) -> dict[str, Tensor]:
    """The weights without what the model has dropped. Raises as `check_weights`."""
    own = model.state_dict()
    weights = {name: t for name, t in weights.items() if name in own or name not in unused}
    check_weights(model, weights, source)
    return weights


def _resampling(name: str) -> dict[str, Any]:
    """The families for which timm departs from its defaults, as it does for their tags."""
    if is_model_in_modules(name, ("deit",)):
        return {"adapt_layer_scale": True}
    if "radio" in name:  # timm keeps these two names to itself
        corners = any(kind in name for kind in ("base_patch16_radio_v3", "huge_patch16_radio_v3"))
        return {"interpolation": "bilinear", "antialias": False, "align_corners": corners}
    return {"interpolation": "bilinear", "antialias": False} if "flexi" in name else {}


@torch.no_grad()
def _start_positions(model: Vit) -> None:
    """Begin the learned positions at 2-D sines and cosines (the idea of MAE, He et al., 2022).

    timm's own start, a deviation of 0.02, is a thirtieth of a patch's content: a small encoder from scratch then spends most of
    a short training finding out where things are (docs/LOG.md, 2026-11-21).
    """
    positions = getattr(model, "pos_embed", None)
    if positions is not None and model.embed_dim % 4 == 0:
        table = sincos_grid(model.patch_embed.grid_size[0], model.embed_dim)
        positions[:, : -len(table)] = 0  # prefix tokens
        positions[:, -len(table) :] = table


class _Stem(ConvStem):
    """On a GPU a pixel's channels lie side by side all the way through: the norms between would turn them."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
            x = x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x
        return x


def _conv_stem(patch_size: int, in_chans: int, **kwargs: Any) -> HybridEmbed:
    """Stride-2 3x3 convolutions down to one cell a patch. Group norm: batch statistics would tie the images of a batch."""
    depth = round(math.log2(patch_size))
    if 2**depth != patch_size:
        raise ValueError(f"a convolutional stem needs a patch size that is a power of 2, not {patch_size}")
    channels = tuple(min(32 * 2**i, 256) for i in range(depth))
    stem = _Stem(in_chans, depth, channels, stride=(2,) * depth, norm_layer=GroupNorm1)
    return HybridEmbed(stem, patch_size=1, in_chans=in_chans, **kwargs)
