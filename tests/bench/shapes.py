"""The shapes that are measured, of which both sides are built, so that the two cannot drift apart.

`anchor` has the sizes that published figures of peers are kept for (RESULTS.md), `small` suits a CPU, `tiny` a test. The
image-text shapes are configurations of Idefics as this project reads them (vlm/interop).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from encoders.base import Pixels
from vlm import DecoderConfig, ModelConfig
from vlm.interop.idefics_config import MEAN, STD, ConfigFile, PerceiverFile, VisionFile
from vlm.interop.idefics_config import shape as idefics_shape


@dataclass(frozen=True)
class Text:
    """A text decoder and the rows it is trained on."""

    decoder: DecoderConfig
    rows: int
    length: int


@dataclass(frozen=True)
class ImageText:
    """A model with images and the rows it is trained on. `experts`: of each layer, two a token; 1: as Idefics, dense."""

    idefics: ConfigFile
    rows: int
    length: int
    images: int  # a row
    experts: int = 1

    @property
    def model(self) -> ModelConfig:
        config = idefics_shape(self.idefics, {}, Pixels(MEAN, STD, "bicubic"))
        experts = {"num_experts": self.experts, "top_k": min(2, self.experts)}
        return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **experts))


def _moe(vocab: int, dim: int, layers: int, heads: int, kv_heads: int, experts: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=vocab, dim=dim, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
        num_experts=experts, top_k=2, expert_dim=dim, tie_embeddings=False,
    )  # fmt: skip


def _idefics(vocab: int, dim: int, ffn: int, layers: int, heads: int, every: int, latents: int, eyes: VisionFile) -> ConfigFile:
    perceiver = PerceiverFile(latents, 6, eyes.num_attention_heads, 3 * eyes.embed_dim // eyes.num_attention_heads // 2)
    return ConfigFile(
        vocab_size=vocab, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        cross_layer_interval=every, use_resampler=True, vision_config=eyes,
        perceiver_config=perceiver,
    )  # fmt: skip


def _vit(dim: int, layers: int, heads: int, image_size: int, patch_size: int) -> VisionFile:
    return VisionFile(dim, image_size, 4 * dim, patch_size, layers, heads)


MOE = {
    "anchor": Text(_moe(32_000, 2048, 12, 16, 4, 16), rows=4, length=4096),
    "small": Text(_moe(4096, 256, 4, 8, 2, 8), rows=4, length=256),
    "tiny": Text(_moe(128, 32, 2, 2, 1, 4), rows=2, length=16),
}
IDEFICS = {
    "anchor": ImageText(_idefics(32_000, 2048, 5632, 24, 16, 4, 64, _vit(1024, 24, 16, 224, 14)), 16, 1024, images=4),
    "small": ImageText(_idefics(4096, 256, 704, 4, 4, 2, 16, _vit(128, 4, 2, 112, 14)), 2, 256, images=4),
    "tiny": ImageText(_idefics(128, 32, 64, 2, 2, 1, 4, _vit(32, 2, 2, 28, 14)), 2, 16, images=2),
}
