"""Encoders of a few thousand weights, made from the names of large ones."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from encoders import Encoder, EncoderConfig, build_encoder

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 2}
TIMM = EncoderConfig("timm", "vit_base_patch16_224", **SMALL)
OPEN_CLIP = EncoderConfig("open_clip", "ViT-B-32", **SMALL)
TOWER = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}  # OPEN_CLIP in open_clip's words
TEXT = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
TRUNK = {  # a tower of timm's in open_clip's words
    "embed_dim": 24,
    "vision_cfg": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
    "text_cfg": TEXT,
    "custom_text": True,
}


def pictures(side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)


def normalised(images: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean) / std


def write(state: dict, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in state.items()}, path)
    else:
        torch.save(state, path)


@torch.no_grad()
def randomize(module: torch.nn.Module) -> None:
    """Biases and layer scales, which begin at 0 or nearly, would hide what is done with them."""
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


def save_weights(config: EncoderConfig, path: Path) -> Encoder:
    """Random weights in the library's own layout; returns the encoder that holds them."""
    encoder = build_encoder(config).eval().requires_grad_(False)
    if config.library == "timm":
        randomize(encoder)
        write(encoder.model.state_dict(), path)
    else:
        peer = open_clip.create_model(config.name, vision_cfg=TOWER, text_cfg=TEXT)
        encoder.visual.load_state_dict({n: t for n, t in peer.visual.state_dict().items() if n != "proj"})
        write(peer.state_dict(), path)
    return encoder


def load(config: EncoderConfig, path: str | os.PathLike, **fields) -> Encoder:
    return build_encoder(dataclasses.replace(config, pretrained=str(path), **fields)).eval().requires_grad_(False)
