"""config.json and preprocessor_config.json of Idefics → our `ModelConfig`.

Keys that are left out have Idefics' defaults; keys that no arithmetic hangs on are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from encoders.base import MAX_DEPTH, EncoderConfig, Pixels
from vlm.config import MAX_LAYERS, DecoderConfig, FusionConfig, ModelConfig, ResamplerConfig
from vlm.files import read_json
from vlm.interop.hf_config import ACTIVATIONS, NEUTRAL, Width
from vlm.interop.hf_rope import read_rope, validate

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # where no preprocessor file says
RESAMPLE = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers
TOWER = "vit_base_patch16_clip_224"  # timm's name of the tower's kind: all its sizes are replaced
TOWER_ACTIVATIONS = {  # theirs → the encoder's; the first of each is written
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
Eps = Annotated[float, Gt(0), Lt(1)]
Depth = Annotated[int, Ge(1), Le(MAX_LAYERS)]


class _File:
    """Part of a config.json: what is left out has Idefics' default, what we do not read is passed over."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "ignore", "strict": True}


@dataclass(frozen=True)
class VisionFile(_File):
    embed_dim: Width = 768
    image_size: Width = 224
    intermediate_size: Width = 5120
    patch_size: Width = 14
    num_hidden_layers: Annotated[int, Ge(1), Le(MAX_DEPTH)] = 32
    num_attention_heads: Width = 16
    num_channels: Literal[3] = 3
    hidden_act: str = "gelu"
    layer_norm_eps: Eps = 1e-5


@dataclass(frozen=True)
class PerceiverFile(_File):
    resampler_n_latents: Width = 64
    resampler_depth: Depth = 6
    resampler_n_heads: Width = 16
    resampler_head_dim: Width = 96
    qk_layer_norms_perceiver: bool = False


@dataclass(frozen=True)
class PixelsFile(_File):
    """preprocessor_config.json."""

    image_mean: Annotated[list[Annotated[float, Gt(-10), Lt(10)]], Len(3, 3)] = field(default_factory=lambda: list(MEAN))
    image_std: Annotated[list[Annotated[float, Gt(0), Lt(10)]], Len(3, 3)] = field(default_factory=lambda: list(STD))
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    resample: Literal[2, 3] = 3
    rescale_factor: Annotated[float, Gt(1 / 256), Lt(1 / 254)] = 1 / 255


@dataclass(frozen=True)
class ConfigFile(_File):
    vocab_size: Width = 32000
    additional_vocab_size: Annotated[int, Ge(0), Le(1 << 24)] = 0
    hidden_size: Width = 4096
    intermediate_size: Width = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Width = 32
    hidden_act: str = "silu"
    alpha_type: Literal["float", "vector"] = "float"
    rms_norm_eps: Eps = 1e-6
    max_position_embeddings: Width = 2048
    tie_word_embeddings: bool = False
    cross_layer_interval: Depth = 1
    qk_layer_norms: bool = False
    use_resampler: bool = False
    vision_config: VisionFile = field(default_factory=VisionFile)
    perceiver_config: PerceiverFile = field(default_factory=PerceiverFile)


def read_config(raw: Mapping) -> ConfigFile:
    """Raises `ValueError` with the key and value that is wrong, or that we have no arithmetic for."""
    for key, neutral in NEUTRAL.items():
        if raw.get(key) not in (None, neutral):
            raise ValueError(f"{key} {raw[key]!r:.60} is not supported")
    file = validate(ConfigFile, {key: value for key, value in raw.items() if value is not None}, "")
    check(file)
    return file


def check(file: ConfigFile) -> None:
    """Raise `ValueError` on values that do not go together, or that we have no arithmetic for."""
    tower = file.vision_config
    for name, value, known in (
        ("hidden_act", file.hidden_act, ACTIVATIONS),
        ("vision_config.hidden_act", tower.hidden_act, TOWER_ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r:.60} is not supported; there are {', '.join(known)}")
    for name, whole, part, divisor in (
        ("hidden_size", file.hidden_size, "num_attention_heads", file.num_attention_heads),
        ("vision_config.embed_dim", tower.embed_dim, "num_attention_heads", tower.num_attention_heads),
        ("num_hidden_layers", file.num_hidden_layers, "cross_layer_interval", file.cross_layer_interval),
    ):
        if whole % divisor:
            raise ValueError(f"{name} {whole} is not a multiple of {part} {divisor}")


def shape(file: ConfigFile, rope: Mapping, pixels: Pixels) -> ModelConfig:
    """Our shape that computes what this file says; `rope` has its rotary keys."""
    theta, scaling = read_rope(rope, file.max_position_embeddings, 10_000.0)
    head_dim = file.hidden_size // file.num_attention_heads
    activation = ACTIVATIONS[file.hidden_act]
    return ModelConfig(
        encoder=_encoder(file.vision_config, pixels),
        resampler=_resampler(file.perceiver_config, file.vision_config.embed_dim) if file.use_resampler else None,
        fusion=FusionConfig(
            every=file.cross_layer_interval,
            num_heads=file.num_attention_heads,
            head_dim=head_dim,
            query_key_norm=file.qk_layer_norms,
            norm="rms",
            norm_eps=file.rms_norm_eps,
            ffn_dim=file.intermediate_size,
            ffn="gated",
            activation=activation,
            gate="channel" if file.alpha_type == "vector" else "scalar",
            pass_without_image=False,
        ),
        decoder=DecoderConfig(
            vocab_size=file.vocab_size + file.additional_vocab_size,
            dim=file.hidden_size,
            num_layers=file.num_hidden_layers,
            num_heads=file.num_attention_heads,
            num_kv_heads=file.num_attention_heads,
            rope_theta=theta,
            rope_scaling=scaling,
            num_experts=1,
            top_k=1,
            expert_dim=file.intermediate_size,
            activation=activation,
            norm_eps=file.rms_norm_eps,
            tie_embeddings=file.tie_word_embeddings,
        ),
        image_mode="squash",
    )


def _encoder(file: VisionFile, pixels: Pixels) -> EncoderConfig:
    return EncoderConfig(
        name=TOWER,
        image_size=file.image_size,
        patch_size=file.patch_size,
        width=file.embed_dim,
        depth=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        ffn_dim=file.intermediate_size,
        activation=TOWER_ACTIVATIONS[file.hidden_act],
        norm_eps=file.layer_norm_eps,
        prefix_tokens=True,
        final_norm=False,
        mean=pixels.mean,
        std=pixels.std,
        interpolation=pixels.interpolation,
    )


def _resampler(file: PerceiverFile, dim: int) -> ResamplerConfig:
    return ResamplerConfig(
        dim=dim,
        num_latents=file.resampler_n_latents,
        depth=file.resampler_depth,
        num_heads=file.resampler_n_heads,
        head_dim=file.resampler_head_dim,
        ffn_dim=4 * dim,
        activation="relu",
        query_key_norm=file.qk_layer_norms_perceiver,
        max_frames=1,
    )


def read_pixels(directory: Path) -> Pixels:
    """How the directory's image processor prepares pictures: in its old file, its new one, or Idefics' own way."""
    raw: object = {}
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (directory / name).is_file():
            raw = read_json(directory / name)
            raw = raw if key is None else raw.get(key, {})
            break
    given = {key: value for key, value in raw.items() if value is not None} if isinstance(raw, Mapping) else raw
    try:
        file = validate(PixelsFile, given, "")
    except ValueError as error:
        raise ValueError(f"{directory / name}: {error}") from None
    return Pixels(tuple(file.image_mean), tuple(file.image_std), RESAMPLE[file.resample])
