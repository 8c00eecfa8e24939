"""`VLM` → a directory of Idefics, which transformers loads as `IdeficsForVisionText2Text`.

The config.json that comes nearest to a model is written, and before that read back: whatever option we have or will have, one
that Idefics has no word for is found by comparing what is read with the model, and refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from encoders.base import Encoder, Pixels
from encoders.weights import check_weights
from vlm.config import ModelConfig, ResamplerConfig
from vlm.files import MAX_SHARD_BYTES, write_json, write_weights
from vlm.interop.hf_config import ACTIVATIONS
from vlm.interop.hf_rope import stretched_length, write_rope
from vlm.interop.idefics_config import RESAMPLE, ConfigFile, PerceiverFile, VisionFile, check, shape
from vlm.interop.idefics_weights import views
from vlm.interop.text import TextFiles, write_text_files
from vlm.meta import on_meta
from vlm.model import VLM
from vlm.resampler import PerceiverResampler

TIME = "resampler.time"
TIMM_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_pytorch_tanh", "ReLU": "relu"}  # classes
# Of training, of routers (there is one expert), or spelled otherwise in `_function`.
WITHOUT_EFFECT = {
    "balance_bias_rate", "balance_loss", "dense_dim", "dense_layers", "every", "full_attention_layers", "gate_init",
    "normalize_top_k", "routed_scale", "router", "router_z_loss", "shared_dim", "start", "top_k",
}  # fmt: skip
Name = TypeVar("Name")


def export(
    model: VLM,
    directory: Path,
    text: TextFiles | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    context_length: int | None = None,
    additional_vocab_size: int = 0,
) -> None:
    """Write what transformers reads as `IdeficsForVisionText2Text`. Raises as `vlm.interop.export`.

    The last `additional_vocab_size` rows of the tables are written as the additional ones.
    """
    file = _nearest_file(model, additional_vocab_size, context_length)
    rope = write_rope(model.config.decoder.rope_theta, model.config.decoder.rope_scaling)
    encoder = model.encoder.config
    pixels = Pixels(encoder.mean, encoder.std, encoder.interpolation)
    with on_meta():
        _refuse_what_differs(model, VLM(shape(file, rope, pixels)))
    config = {"architectures": ["IdeficsForVisionText2Text"], "model_type": "idefics", **dataclasses.asdict(file), **rope}
    config["torch_dtype"] = str(model.decoder.embedding.weight.dtype).removeprefix("torch.")
    ids = {f"{role}_token_id": None if text is None else text.id(role) for role in ("bos", "eos", "pad")}
    if (ids["pad_token_id"] or 0) >= file.vocab_size:
        ids["pad_token_id"] = None  # transformers wants it in the main table
    write_weights(directory, _tensors(model, additional_vocab_size), max_shard_bytes)
    if text is not None:
        write_text_files(directory, text)
    write_json(directory / "preprocessor_config.json", _preprocessor(pixels, encoder.image_size))
    write_json(directory / "config.json", config | ids)


def _nearest_file(model: VLM, additional: int, context_length: int | None) -> ConfigFile:
    """The config.json that comes nearest to the model; `_refuse_what_differs` finds what it does not say."""
    config = model.config
    decoder, fusion, resampler = config.decoder, config.fusion, config.resampler
    if not 0 <= additional < decoder.vocab_size:
        raise ValueError(f"additional_vocab_size {additional} is not between 0 and the vocabulary's {decoder.vocab_size}")
    layers = fusion.gated_layers(decoder.num_layers)
    file = ConfigFile(
        vocab_size=decoder.vocab_size - additional,
        additional_vocab_size=additional,
        hidden_size=decoder.dim,
        intermediate_size=decoder.ffn_dim(0),
        num_hidden_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        hidden_act=_theirs(ACTIVATIONS, decoder.activation),
        alpha_type="vector" if fusion.gate == "channel" else "float",
        rms_norm_eps=decoder.norm_eps,
        max_position_embeddings=stretched_length(decoder.rope_scaling, context_length or decoder.context_length),
        tie_word_embeddings=decoder.tie_embeddings,
        cross_layer_interval=layers[1] - layers[0] if len(layers) > 1 else decoder.num_layers,
        qk_layer_norms=fusion.query_key_norm,
        use_resampler=resampler is not None,
        vision_config=_vision_file(model.encoder),
        perceiver_config=_perceiver_file(resampler) if resampler else PerceiverFile(),
    )
    check(file)
    return file


def _vision_file(encoder: Encoder) -> VisionFile:
    name, stem = encoder.config.name, encoder.config.stem
    if encoder.config.library != "timm" or not re.match(r"vit_.*_clip_", name) or stem != "patch":
        raise ValueError(f"Idefics cannot say encoder.name {name!r} with stem {stem!r}: its tower is timm's vit_*_clip_*")
    tower = encoder.model
    block = tower.blocks[0]
    return VisionFile(
        embed_dim=tower.embed_dim,
        image_size=encoder.config.image_size,
        intermediate_size=block.mlp.fc1.out_features,
        patch_size=tower.patch_embed.patch_size[0],
        num_hidden_layers=len(tower.blocks),
        num_attention_heads=block.attn.num_heads,
        hidden_act=TIMM_ACTIVATIONS[type(block.mlp.act).__name__],
        layer_norm_eps=block.norm1.eps,
    )


def _perceiver_file(config: ResamplerConfig) -> PerceiverFile:
    return PerceiverFile(
        resampler_n_latents=config.num_latents,
        resampler_depth=config.depth,
        resampler_n_heads=config.num_heads,
        resampler_head_dim=config.head_size,
        qk_layer_norms_perceiver=config.query_key_norm,
    )


def _theirs(names: Mapping[Name, str], ours: str) -> Name:
    return next(name for name, value in names.items() if value == ours)


def _function(config: ModelConfig) -> dict[str, object]:
    """What of a shape the function hangs on, by key; what has several spellings is in one."""
    decoder, layers = config.decoder, range(config.decoder.num_layers)
    fusion = dataclasses.asdict(config.fusion) | {"layers": config.fusion.gated_layers(len(layers))}
    text = dataclasses.asdict(decoder) | {"head_dim": decoder.head_size}
    text |= {"expert_dim": [decoder.ffn_dim(i) for i in layers], "sliding_window": [decoder.window(i) for i in layers]}
    parts = {"decoder": text, "fusion": fusion}
    if config.resampler is not None:
        size = {"head_dim": config.resampler.head_size, "max_frames": 1}
        parts["resampler"] = dataclasses.asdict(config.resampler) | size
    tower = {name: getattr(config.encoder, name) for name in ("final_norm", "prefix_tokens")}
    return {"image_mode": config.image_mode, **{f"encoder.{key}": value for key, value in tower.items()}} | {
        f"{part}.{key}": value for part, values in parts.items() for key, value in values.items() if key not in WITHOUT_EFFECT
    }


def _preprocessor(pixels: Pixels, size: int) -> dict:
    """preprocessor_config.json, as old and new versions of transformers read it."""
    return {
        "image_processor_type": "IdeficsImageProcessor",
        "processor_class": "IdeficsProcessor",
        "image_size": size,
        "image_num_channels": 3,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "resample": _theirs(RESAMPLE, pixels.interpolation),
    }


def _refuse_what_differs(model: VLM, there: VLM) -> None:
    """`there`: what reading back would build. Raises `ValueError` with the first thing in which it is another."""
    back = _function(there.config)
    for key, value in _function(model.config).items():
        if key not in back or back[key] != value:
            raise ValueError(f"Idefics cannot say {key} {value!r}" + (f", only {back[key]!r} here" if key in back else ""))
    own, theirs = ({n: t for n, t in m.state_dict().items() if n != TIME} for m in (model, there))
    try:
        check_weights(theirs, own, "the model")
    except ValueError as error:
        raise ValueError(f"Idefics has other tensors: {error}") from None
    if isinstance(model.resampler, PerceiverResampler) and model.resampler.time.any():
        raise ValueError(f"Idefics cannot say {TIME}: its pictures have no times, and this model has learnt some")


def _tensors(model: VLM, additional: int) -> Iterator[tuple[str, Tensor]]:
    yield from views(model, additional).items()
    width, kind = model.encoder.dim, model.encoder.model.cls_token.dtype
    yield "model.vision_model.post_layernorm.weight", torch.ones(width, dtype=kind)
    yield "model.vision_model.post_layernorm.bias", torch.zeros(width, dtype=kind)
