"""The shape of a model, in frozen dataclasses: everything needed to build it, and nothing about how it is trained or run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from encoders.base import Checked, EncoderConfig, Size


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """A pre-norm decoder with rotary positions and SwiGLU experts. One expert: a Llama. Eight, top-2: a Mixtral."""

    vocab_size: Size = 32_000
    dim: Size = 2048  # D, width of the residual stream
    num_layers: Size = 12
    num_heads: Size = 16  # query heads
    num_kv_heads: Size = 4  # key and value heads, shared by groups of query heads (Ainslie et al., 2023)
    head_dim: Size | None = None  # default dim / num_heads
    num_experts: Size = 8  # E; 1 = a dense feed-forward
    top_k: Size = 2  # experts a token
    expert_dim: Size = 2048  # F, hidden width of an expert
    normalize_top_k: bool = True  # weights of the chosen experts sum to 1 (Mixtral); False keeps the raw softmax (OLMoE)
    balance_loss: float = 0.01  # weight of the load-balance loss (Fedus et al., 2022, eq. 4)
    router_z_loss: float = 0.001  # weight of the router z-loss (Zoph et al., 2022, eq. 5)
    # Key heads that carry the previous token's key (as the smeared keys of Olsson et al., 2022): "what follows X" is then found
    # in one layer, where it otherwise takes two and, in a small model, most of a short training. 0: a Llama.
    shifted_kv_heads: int = 0
    rope_theta: float = 10_000.0  # base of the rotary frequencies (Su et al., 2021)
    norm_eps: float = 1e-5
    tie_embeddings: bool = True  # input table = output head

    def __post_init__(self) -> None:
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(f"decoder.dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"decoder.num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"decoder.head_dim {self.head_size} is odd: rotary positions turn pairs")
        if not 0 <= self.shifted_kv_heads <= self.num_kv_heads:
            raise ValueError(
                f"decoder.shifted_kv_heads {self.shifted_kv_heads} is not between 0 and num_kv_heads {self.num_kv_heads}"
            )
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"decoder.top_k {self.top_k} is not between 1 and num_experts {self.num_experts}")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.dim // self.num_heads


@dataclass(frozen=True)
class ResamplerConfig(Checked):
    """Perceiver resampler (Alayrac et al., 2022, section 3.1.1)."""

    dim: Size = 1024  # width of the latents
    num_latents: Size = 64  # R, latents a medium, whatever its number of patches
    depth: Size = 6
    num_heads: Size = 16
    ffn_dim: Size = 4096
    max_frames: Size = 8  # length of the learned table of frame times
    start: Literal["random", "grid"] = "random"  # grid: latents begin as places and look there first

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"resampler.dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.start == "grid" and math.isqrt(self.num_latents) ** 2 != self.num_latents:
            raise ValueError(f"resampler.start: grid needs a square number of latents, not {self.num_latents}")
        if self.start == "grid" and self.dim % 4:
            raise ValueError(f"resampler.start: grid needs a dim that is a multiple of 4, not {self.dim}")


@dataclass(frozen=True)
class FusionConfig(Checked):
    """Gated cross-attention between the decoder's layers (Alayrac et al., 2022, section 3.1.2)."""

    every: Size = 4  # a gated block before layers 0, every, 2·every, …
    num_heads: Size = 16
    head_dim: Size = 64
    ffn_dim: Size = 4096
    gate_init: float = 0.0  # α of tanh(α): at 0 a new model is exactly its decoder, and no gradient reaches the encoder
    sees: Literal["last", "all"] = "last"  # a token attends to the last medium before it, or to all before it
    pass_without_image: bool = (
        True  # a token that sees no image passes both sublayers untouched; False: as Idefics, its FFN acts
    )


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The whole model. Groups that can be frozen bear the names of these fields."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    image_mode: Literal["letterbox", "squash"] = "letterbox"  # how a picture is brought to the encoder's square
