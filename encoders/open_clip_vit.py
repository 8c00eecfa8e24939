"""The vision tower of any open_clip model (its own ViT, or the timm trunk of SigLIP and others) as an encoder."""

from __future__ import annotations

import copy
import difflib
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from encoders.base import Encoder, EncoderConfig, library_errors

# The text tower is thrown away: without weights to fit, it is built as small as can be.
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenClipEncoder(Encoder):
    """Patch tokens after the tower's last norm: what open_clip returns beside the pooled vector with `output_tokens`."""

    def __init__(self, config: EncoderConfig) -> None:
        visual = _create(config)
        preprocess = getattr(visual, "preprocess_cfg", None) or {}
        super().__init__(
            preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN), preprocess.get("std", open_clip.OPENAI_DATASET_STD)
        )
        # The pooled vector is not used: pooling and projection would be parameters without gradient.
        self.trunk = getattr(visual, "trunk", None)
        if self.trunk is not None:
            self.trunk.reset_classifier(0, "")
            self.dim, self.grid = self.trunk.num_features, self.trunk.patch_embed.grid_size[0]
        else:
            self.visual = visual
            visual.output_tokens, visual.proj = True, None
            self.dim, self.grid = visual.conv1.out_channels, visual.grid_size[0]

    def features(self, pixels: Tensor) -> Tensor:
        if self.trunk is not None:
            return self.trunk.forward_features(pixels)[:, self.trunk.num_prefix_tokens :]
        return self.visual(pixels)[1]


def _create(config: EncoderConfig) -> nn.Module:
    names = open_clip.list_models()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, 1)
        raise ValueError(f"open_clip has no model {config.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if config.stem != "patch":
        raise ValueError("open_clip towers have no convolutional stem: use library: timm")
    tower = _vision_config(config)
    text = {} if config.pretrained else {"text_cfg": NO_TEXT}
    with library_errors(config):
        visual = open_clip.create_model(
            config.name,
            pretrained=config.pretrained,
            device=torch.get_default_device(),
            force_image_size=config.image_size,
            vision_cfg=tower,
            weights_only=True,
            **text,
        ).visual
    if not (hasattr(visual, "transformer") or hasattr(getattr(visual, "trunk", None), "num_prefix_tokens")):
        raise ValueError(f"open_clip model {config.name!r} has no Vision Transformer")
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(f"open_clip model {config.name!r} pools its patches: it has no tokens to give")
    return visual


def _vision_config(config: EncoderConfig) -> dict[str, Any]:
    """The named model's tower with the numbers that the config replaces."""
    tower = copy.deepcopy(open_clip.get_model_config(config.name)["vision_cfg"])
    tower["image_size"] = config.image_size
    numbers = {"patch_size": config.patch_size, "width": config.width, "layers": config.depth}
    changed = {name: value for name, value in numbers.items() if value is not None}
    if "timm_model_name" in tower and (changed or config.num_heads):
        raise ValueError(f"{config.name!r} is a timm tower in open_clip: change its size through library: timm")
    tower |= changed
    if config.num_heads is not None:
        tower["head_width"] = tower["width"] // config.num_heads
    return tower
