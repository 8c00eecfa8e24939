"""What every vision encoder is to the rest of the house.

An encoder takes uint8 pictures of its own size and gives patch tokens before any pooling or projection. It normalises the
pixels itself, with the statistics its weights were trained with, so that batches stay small integers until they are on
the device.

N images, H = W pixels, P patches (a g x g grid), D features.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

Size = Annotated[int, Ge(1)]


class Checked:
    """Base of all configuration dataclasses: read from a file (by pydantic), unknown keys and wrong types are refused."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """Which network sees. The fields after `pretrained` replace the named model's own numbers; `None` keeps them."""

    library: Literal["timm", "open_clip"] = "timm"
    name: str = "vit_base_patch16_224"  # the library's own model name
    image_size: Size = 224  # pixels, both sides; positions are interpolated when weights were made for another size
    pretrained: str | None = None  # tag known to the library, or a local weights file
    patch_size: Size | None = None  # pixels
    width: Size | None = None  # features of a token
    depth: Size | None = None  # blocks
    num_heads: Size | None = None
    stem: Literal["patch", "conv"] = "patch"  # conv: 3x3 convolutions down to the patch grid (Xiao et al., 2021); timm only

    def __post_init__(self) -> None:
        if self.patch_size and self.image_size % self.patch_size:
            raise ValueError(f"encoder.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")


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


@contextlib.contextmanager
def library_errors(config: EncoderConfig) -> Iterator[None]:
    """Turn whatever a library raises on a shape, tag or weights file that does not fit into one `ValueError` line."""
    if config.pretrained and Path(config.pretrained).suffix and not Path(config.pretrained).is_file():
        raise ValueError(f"encoder weights file {config.pretrained} does not exist")
    try:
        yield
    except Exception as error:
        weights = f" with weights {config.pretrained!r}" if config.pretrained else ""
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{config.library} model {config.name!r}{weights} cannot be built: {type(error).__name__}: {reason}"
        ) from error
