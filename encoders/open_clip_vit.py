"""The vision tower of any open_clip model (its own ViT, or the timm trunk of SigLIP and others) as an encoder."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from encoders.base import Encoder, EncoderConfig


class OpenClipEncoder(Encoder):
    """Patch tokens after the tower's last norm: what open_clip returns beside the pooled vector with `output_tokens`."""

    def __init__(self, config: EncoderConfig) -> None:
        visual = _create(config)
        preprocess = getattr(visual, "preprocess_cfg", None) or {}
        super().__init__(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN), preprocess.get("std", open_clip.OPENAI_DATASET_STD))
        self.visual = visual
        if self._is_timm:
            self.dim, self.grid = visual.trunk.num_features, visual.trunk.patch_embed.grid_size[0]
        else:
            visual.output_tokens = True
            self.dim, self.grid = visual.conv1.out_channels, visual.grid_size[0]
            visual.proj = None  # the pooled vector is not used: its projection would be a parameter without gradient

    @property
    def _is_timm(self) -> bool:
        return hasattr(self.visual, "trunk")

    def features(self, pixels: Tensor) -> Tensor:
        if self._is_timm:
            trunk = self.visual.trunk
            return trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
        return self.visual(pixels)[1]


def _create(config: EncoderConfig) -> nn.Module:
    names = open_clip.list_models()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, 1)
        raise ValueError(f"open_clip has no model {config.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if config.stem != "patch":
        raise ValueError("open_clip towers have no convolutional stem: use library: timm")
    if config.pretrained and Path(config.pretrained).suffix and not Path(config.pretrained).is_file():
        raise ValueError(f"encoder weights file {config.pretrained} does not exist")
    model = open_clip.create_model(
        config.name,
        pretrained=config.pretrained,
        force_image_size=config.image_size,
        vision_cfg=_vision_config(config),
        weights_only=True,
    )
    visual = model.visual
    if not (hasattr(visual, "trunk") or hasattr(visual, "transformer")):
        raise ValueError(f"open_clip model {config.name!r} has no Vision Transformer")
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
