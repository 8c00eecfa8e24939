"""What every vision encoder is to the rest of the house.

An encoder takes uint8 pictures of its own size and gives patch tokens before any pooling or projection. It normalises the
pixels itself, with the statistics its weights were trained with, so that batches stay small integers until they are on
the device.

N images, H = W pixels, P patches (a g x g grid), D features.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn


class Checked:
    """Base of all configuration dataclasses: read from a file (by pydantic), unknown keys and wrong types are refused."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """Which network sees. The fields after `pretrained` replace the named model's own numbers; `None` keeps them."""

    library: Literal["timm", "open_clip"] = "timm"
    name: str = "vit_base_patch16_224"  # the library's own model name
    image_size: int = 224  # pixels, both sides; positions are interpolated when weights were made for another size
    pretrained: str | None = None  # tag known to the library, or a local weights file
    patch_size: int | None = None  # pixels
    width: int | None = None  # features of a token
    depth: int | None = None  # blocks
    num_heads: int | None = None
    stem: Literal["patch", "conv"] = "patch"  # conv: 3x3 convolutions down to the patch grid (Xiao et al., 2021); timm only


class Encoder(nn.Module, abc.ABC):
    """uint8 [N, 3, H, W] → [N, P, D]. `dim` is D, `grid` is g (P = g²)."""

    dim: int
    grid: int

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._statistics = (tuple(mean), tuple(std))
        self.register_buffer("mean", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, 3, 1, 1), persistent=False)
        self.reset_statistics()

    def reset_statistics(self) -> None:
        """Fill the pixel statistics (also after a meta-device build, which leaves buffers empty)."""
        for buffer, values in zip((self.mean, self.std), self._statistics, strict=True):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return self.features(pixels)

    @abc.abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, 3, H, W] → the library's own patch tokens [N, P, D], class and register tokens left out."""


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build, and load weights where `pretrained` names them. Raises `ValueError` for an unknown name, tag or file."""
    if config.library == "timm":
        from encoders.timm_vit import TimmEncoder

        return TimmEncoder(config)
    from encoders.open_clip_vit import OpenClipEncoder

    return OpenClipEncoder(config)
