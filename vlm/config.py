"""The shape of a model, in frozen dataclasses: everything needed to build it, and nothing about how it is trained or run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from encoders.base import Checked, EncoderConfig, Size

MAX_LAYERS = 4096  # a file that asks for more is not a model's
Positive = Annotated[float, Gt(0)]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]  # vlm/activation.py


@dataclass(frozen=True)
class RopeScaling(Checked):
    """How rotary positions are stretched beyond the context they were trained on; see vlm/rope.py for what each kind does."""

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: Annotated[float, Ge(1)]  # the context grows by this
    original_length: Size | None = None  # tokens, the context before; linear scaling alone does without
    beta_fast: float = 32.0  # yarn: pairs that turn more often than this over the original context stay as they are
    beta_slow: float = 1.0  # yarn: pairs that turn less often are interpolated in full
    truncate: bool = True  # yarn: the two borders are rounded to whole pairs
    attention_factor: Positive | None = None  # yarn: cosines and sines times this; default 0.1 ln(factor) + 1
    low_freq_factor: float = 1.0  # llama3: as beta_slow
    high_freq_factor: float = 4.0  # llama3: as beta_fast

    def __post_init__(self) -> None:
        if self.kind != "linear" and self.original_length is None:
            raise ValueError(f"rope_scaling of kind {self.kind!r} needs original_length")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(f"rope_scaling.low_freq_factor {self.low_freq_factor} is not below {self.high_freq_factor}")
        if self.kind == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(f"rope_scaling.beta_slow {self.beta_slow} is not below beta_fast {self.beta_fast}")


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """A pre-norm decoder with rotary positions and gated experts. One expert: a Llama. Eight, top-2: a Mixtral."""

    vocab_size: Size = 32_000
    dim: Size = 2048  # D, width of the residual stream
    num_layers: Annotated[int, Ge(1), Le(MAX_LAYERS)] = 12
    num_heads: Size = 16  # query heads
    num_kv_heads: Size = 4  # key and value heads, shared by groups of query heads (Ainslie et al., 2023)
    head_dim: Size | None = None  # default dim / num_heads
    attention_bias: bool = False  # of all four projections
    query_key_norm: Literal["none", "head", "width"] = "none"  # RMS norm of these, by head (Qwen3) or in full (OLMoE)
    clip_qkv: Positive | None = None  # queries, keys and values are clamped to ± this (OLMo)
    sliding_window: Size | None = None  # tokens a query sees, itself included (Beltagy et al., 2020)
    full_attention_layers: tuple[int, ...] = ()  # layers that see everything in spite of a sliding window
    # Key heads that carry the previous token's key (as the smeared keys of Olsson et al., 2022): "what follows X" is then found
    # in one layer, where it otherwise takes two and, in a small model, most of a short training. 0: a Llama.
    shifted_kv_heads: int = 0
    rope_theta: Annotated[float, Gt(1)] = 10_000.0  # base of the rotary frequencies (Su et al., 2021)
    rope_scaling: RopeScaling | None = None
    num_experts: Size = 8  # E; 1 = a dense feed-forward
    top_k: Size = 2  # experts a token
    expert_dim: Size = 2048  # F, hidden width of an expert
    activation: Activation = "silu"  # of the gate in act(gate x) · (up x)
    ffn_bias: bool = False  # of the three projections of each expert
    shared_dim: Annotated[int, Ge(0)] = 0  # hidden width of an expert that every token passes (Dai et al., 2024); 0 = none
    dense_layers: tuple[int, ...] = ()  # layers with one feed-forward in place of the experts
    dense_dim: Size | None = None  # hidden width of these; default expert_dim
    router: Literal["softmax", "sigmoid"] = "softmax"  # what turns router logits into scores
    normalize_top_k: bool = True  # weights of the chosen experts sum to 1 (Mixtral); False keeps the raw scores (OLMoE)
    routed_scale: Positive = 1.0  # the routed experts' sum times this (DeepSeek-V3)
    balance_loss: Annotated[float, Ge(0)] = 0.01  # weight of the load-balance loss (Fedus et al., 2022, eq. 4)
    # Balance without a loss (Wang et al., 2024): a bias on each expert's score, in the choice only, moves by this after each
    # step towards an even load. 0: no bias.
    balance_bias_rate: Annotated[float, Ge(0)] = 0.0
    router_z_loss: Annotated[float, Ge(0)] = 0.001  # weight of the router z-loss (Zoph et al., 2022, eq. 5)
    norm_eps: Annotated[float, Ge(0)] = 1e-5
    tie_embeddings: bool = True  # input table = output head
    context_length: Size | None = None  # tokens of the longest document it was trained on; no arithmetic goes by it

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
        if self.rope_scaling is not None and self.rope_scaling.kind == "dynamic" and self.head_size == 2:
            raise ValueError("decoder.rope_scaling: dynamic needs a head_dim above 2")
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"decoder.top_k {self.top_k} is not between 1 and num_experts {self.num_experts}")
        if self.shared_dim and self.num_experts == 1:
            raise ValueError(f"decoder.shared_dim {self.shared_dim} stands beside routed experts, and num_experts is 1")
        for name in ("full_attention_layers", "dense_layers"):
            outside = [layer for layer in getattr(self, name) if not 0 <= layer < self.num_layers]
            if outside:
                raise ValueError(f"decoder.{name} names layer {outside[0]}; there are {self.num_layers}, from 0")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.dim // self.num_heads

    def window(self, layer: int) -> int | None:
        """Tokens a query of this layer sees; `None`: all before it."""
        return None if layer in self.full_attention_layers else self.sliding_window

    @property
    def windows(self) -> set[int | None]:
        """The windows that its layers have."""
        return {self.window(layer) for layer in range(self.num_layers)}

    def is_moe(self, layer: int) -> bool:
        """Has this layer a router?"""
        return self.num_experts > 1 and layer not in self.dense_layers

    def ffn_dim(self, layer: int) -> int:
        """Hidden width of each expert of this layer."""
        return self.dense_dim or self.expert_dim if layer in self.dense_layers else self.expert_dim


@dataclass(frozen=True)
class ResamplerConfig(Checked):
    """Perceiver resampler (Alayrac et al., 2022, section 3.1.1)."""

    dim: Size = 1024  # width of the latents
    num_latents: Size = 64  # R, latents a medium, whatever its number of patches
    depth: Size = 6
    num_heads: Size = 16
    head_dim: Size | None = None  # default dim / num_heads
    ffn_dim: Size = 4096
    activation: Activation = "gelu"
    query_key_norm: bool = False  # layer norm of each head's queries and keys (Idefics)
    norm_eps: Positive = 1e-5
    max_frames: Size = 8  # length of the learned table of frame times
    start: Literal["random", "grid"] = "random"  # grid: latents begin as places and look there first

    def __post_init__(self) -> None:
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(f"resampler.dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.start == "grid" and math.isqrt(self.num_latents) ** 2 != self.num_latents:
            raise ValueError(f"resampler.start: grid needs a square number of latents, not {self.num_latents}")
        if self.start == "grid" and self.dim % 4:
            raise ValueError(f"resampler.start: grid needs a dim that is a multiple of 4, not {self.dim}")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.dim // self.num_heads


@dataclass(frozen=True)
class FusionConfig(Checked):
    """Gated cross-attention between the decoder's layers (Alayrac et al., 2022, section 3.1.2)."""

    every: Size = 4  # a gated block before layers 0, every, 2·every, …
    layers: tuple[int, ...] | None = None  # the layers with a gated block before them, in place of `every`
    num_heads: Size = 16
    head_dim: Size = 64
    query_key_norm: bool = False  # norm of each head's queries and keys, of the kind below
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: Positive = 1e-5
    ffn_dim: Size = 4096
    ffn: Literal["plain", "gated"] = "plain"  # down act(up x), or down (act(gate x) · up x) as the decoder's
    activation: Activation = "gelu"  # of the feed-forward
    gate: Literal["scalar", "channel"] = "scalar"  # one α a sublayer, or one for each channel of the stream
    gate_init: float = 0.0  # α of tanh(α): at 0 a new model is exactly its decoder, and no gradient reaches the encoder
    sees: Literal["last", "all"] = "last"  # a token attends to the last medium before it, or to all before it
    pass_without_image: bool = (
        True  # a token that sees no image passes both sublayers untouched; False: as Idefics, its FFN acts
    )

    def gated_layers(self, num_layers: int) -> tuple[int, ...]:
        """Decoder layers, from 0, that have a gated block before them."""
        return tuple(range(0, num_layers, self.every)) if self.layers is None else tuple(sorted(set(self.layers)))


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The whole model. Groups that can be frozen bear the names of these fields."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    resampler: ResamplerConfig | None = field(default_factory=ResamplerConfig)  # None: text looks at the encoder's own tokens
    fusion: FusionConfig = field(default_factory=FusionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    image_mode: Literal["letterbox", "squash"] = "letterbox"  # how a picture is brought to the encoder's square
    image_backend: Literal["pillow", "torch"] = (
        "pillow"  # what resizes it: torch is faster, by a level here and there (vlm/image.py)
    )

    def __post_init__(self) -> None:
        if self.fusion.layers == ():
            raise ValueError("fusion.layers is empty: without a gated layer nothing is seen")
        outside = [layer for layer in self.fusion.layers or () if not 0 <= layer < self.decoder.num_layers]
        if outside:
            raise ValueError(f"fusion.layers names layer {outside[0]}; there are {self.decoder.num_layers}, from 0")
