"""What every vision encoder is to the rest of the house.

An encoder takes uint8 pictures of its own size and gives patch tokens before any pooling or projection. It normalises the
pixels itself, with the statistics its weights were trained with, so that batches stay small integers until they are on
the device. Those statistics and the interpolation come from the library, by name and tag; `native_pixels` writes them into
the config, so that a saved model keeps them without its tag.

N images, H = W pixels, P patches (a g x g grid), D features.
"""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

Size = Annotated[int, Ge(1)]
RGB = tuple[float, float, float]
MAX_DEPTH = 1024  # blocks; a file that asks for more is not a model's


class Checked:
    """Base of all configuration dataclasses: read from a file (by pydantic), unknown keys and wrong types are refused."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """Which network sees. Fields that are `None` keep what the library has for the named model and tag."""

    library: Literal["timm", "open_clip"] = "timm"
    name: str = "vit_base_patch16_224"  # the library's own model name
    image_size: Size = 224  # pixels, both sides; positions are interpolated when weights were made for another size
    pretrained: str | None = None  # tag known to the library, or a local weights file
    patch_size: Size | None = None  # pixels
    width: Size | None = None  # features of a token
    depth: Annotated[int, Ge(1), Le(MAX_DEPTH)] | None = None  # blocks
    num_heads: Size | None = None
    ffn_dim: Size | None = None  # hidden width of a block's feed-forward, counted as the library's `mlp_ratio` does
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] | None = None  # of the feed-forward
    norm_eps: Annotated[float, Gt(0)] | None = None
    stem: Literal["patch", "conv"] = "patch"  # conv: 3x3 convolutions down to the patch grid (Xiao et al., 2021); timm only
    final_norm: bool = True  # False: tokens as they are before the last norm
    prefix_tokens: bool = False  # True: class and register tokens are given too, before the patches
    mean: RGB | None = None  # of the pixels, from 0 to 1
    std: RGB | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None  # how pictures are brought to `image_size`

    def __post_init__(self) -> None:
        if self.patch_size and self.image_size % self.patch_size:
            raise ValueError(f"encoder.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.std is not None and not min(self.std) > 0:
            raise ValueError(f"encoder.std {self.std} is not above 0")


@dataclass(frozen=True)
class Pixels:
    """How a library prepares pictures for one model. Its crops are left out on purpose (vlm/image.py)."""

    mean: RGB
    std: RGB
    interpolation: Literal["bicubic", "bilinear"]


class Standardise(nn.Module):
    """Colours by their mean and deviation. A module, so that it may be compiled: plain, it takes a dozen passes."""

    def forward(self, images: Tensor, dtype: torch.dtype, mean: RGB, std: RGB) -> Tensor:
        """uint8 [N, 3, H, W] → `dtype`, computed in float32 at least: a bfloat16 cannot tell neighbouring levels apart.

        On a GPU the colours of a pixel lie side by side, which is how convolutions there take them.
        """
        exact = torch.promote_types(dtype, torch.float32)
        colours = zip((images.to(exact) / 255).unbind(dim=1), mean, std, strict=True)
        pixels = torch.stack([(level - m) / s for level, m, s in colours], dim=1).to(dtype)
        return pixels.contiguous(memory_format=torch.channels_last) if images.is_cuda else pixels


class Encoder(nn.Module, abc.ABC):
    """uint8 [N, 3, H, W] → [N, num_prefix_tokens + P, D].

    `dim` is D, `grid` is g (P = g²), `num_prefix_tokens` counts the class and register tokens that are given. `config` is what
    it was built from, with the pixels' statistics and interpolation written out.
    """

    dim: int
    grid: int
    num_prefix_tokens: int

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = native_pixels(config)
        self.standardise = Standardise()

    def forward(self, images: Tensor) -> Tensor:
        return self.features(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 → the weights' type, by the config's mean and deviation."""
        return self.standardise(images, next(self.parameters()).dtype, *self._statistics)

    @property
    def _statistics(self) -> tuple[RGB, RGB]:
        assert self.config.mean is not None and self.config.std is not None  # native_pixels
        return self.config.mean, self.config.std

    @property
    def stem(self) -> nn.Module | None:
        """What makes patches of pixels, where that is more than one product."""
        return None

    @property
    @abc.abstractmethod
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer's blocks, all alike."""

    @abc.abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, 3, H, W] → the library's own tokens."""

    def reset_buffers(self) -> None:
        """Fill the tables that are computed, not learnt (rotary angles, …), which a build on the meta device leaves empty.

        To be called once the weights are in their places; the tables follow their device and type, as with `Module.to`.
        """
        weight = next(self.parameters())
        for module in self.modules():
            fill = getattr(module, "init_non_persistent_buffers", None)  # timm's name for it
            if fill is None:
                continue
            saved = module.state_dict(keep_vars=True)
            tables = {name: table for name, table in module.named_buffers(recurse=False) if name not in saved}
            for name, table in tables.items():
                exact = torch.float32 if table.is_floating_point() else table.dtype
                module.register_buffer(name, torch.empty_like(table, device=weight.device, dtype=exact), persistent=False)
            fill()
            module.to(weight.dtype)  # some keep a table in float32 all the same


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build, and load weights where `pretrained` names them. Raises `ValueError` for an unknown name, tag or file."""
    if config.library == "timm":
        from encoders.timm_vit import TimmEncoder

        return TimmEncoder(config)
    from encoders.open_clip_vit import OpenClipEncoder

    return OpenClipEncoder(config)


def check_whole(config: EncoderConfig, patch: int, native: int | None) -> None:
    """Raise `ValueError` for a size whose last pixels no patch would hold, unless it is the one the model was made for."""
    if config.image_size % patch and config.image_size != native:
        near = patch * max(1, round(config.image_size / patch))
        whose = f"{config.name}'s patches of {patch}"
        raise ValueError(f"encoder.image_size {config.image_size} is not a multiple of {whose}; try {near}")


def native_pixels(config: EncoderConfig) -> EncoderConfig:
    """The config with mean, std and interpolation written out. Raises `ValueError` for an unknown name or tag."""
    missing = [field.name for field in dataclasses.fields(Pixels) if getattr(config, field.name) is None]
    if not missing:
        return config
    if config.library == "timm":
        from encoders.timm_vit import pixels
    else:
        from encoders.open_clip_vit import pixels
    native = pixels(config)
    return dataclasses.replace(config, **{name: getattr(native, name) for name in missing})
