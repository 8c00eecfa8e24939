"""config.json of the text families ↔ `DecoderConfig`.

Reading takes the keys that the family has and no other, as transformers does; a key that another family's arithmetic hangs on
is refused unless it is neutral. Writing refuses, by name, each option of ours that the family has no word for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from vlm.config import MAX_LAYERS, Activation, DecoderConfig
from vlm.interop.hf_families import Family
from vlm.interop.hf_rope import read_rope, stretched_length, validate, write_rope

ACTIVATIONS: dict[str, Activation] = {  # theirs → ours; the first of each is written
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
# What other families, or heads on these, compute with: key → the value that changes nothing.
NEUTRAL = {
    "partial_rotary_factor": 1,
    "pretraining_tp": 1,
    "is_causal": True,
    "quantization_config": None,
    "attention_multiplier": None,
    "embedding_multiplier": 1,
    "residual_multiplier": 1,
    "logits_scaling": 1,
    "logit_scale": 1,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "query_pre_attn_scalar": None,
    "alibi": False,
    "use_qk_norm": False,
    "n_shared_experts": 0,
    "shared_expert_intermediate_size": 0,
    "per_layer_config": None,
}
Width = Annotated[int, Ge(1), Le(1 << 24)]
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class ConfigFile:
    """The values of a config.json, with those of a family without the key."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Annotated[int, Ge(1), Le(MAX_LAYERS)]
    num_attention_heads: Width
    num_key_value_heads: Width | None
    max_position_embeddings: Width
    hidden_act: str
    rms_norm_eps: Annotated[float, Ge(0), Lt(1)]
    tie_word_embeddings: bool
    head_dim: Width | None
    attention_bias: bool = False
    mlp_bias: bool = False
    clip_qkv: Annotated[float, Gt(0), Lt(1e30)] | None = None
    use_sliding_window: bool = True
    sliding_window: Width | None = None
    max_window_layers: Annotated[int, Ge(0)] = 0
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    num_experts: Annotated[int, Ge(0), Le(1 << 16)] = 0
    num_experts_per_tok: Width = 1
    norm_topk_prob: bool = True
    moe_intermediate_size: Width | None = None
    decoder_sparse_step: Annotated[int, Ge(1)] = 1
    mlp_only_layers: list[int] | None = None


def read_config(raw: Mapping, family: Family) -> DecoderConfig:
    """Raises `ValueError` with the key and value that is wrong, or that we have no arithmetic for."""
    if "num_local_experts" in raw:  # another name of the same
        raw = {"num_experts": raw["num_local_experts"], **raw}
    for key, neutral in NEUTRAL.items():
        if raw.get(key) not in (None, neutral):
            raise ValueError(f"{key} {raw[key]!r:.60} is not supported")
    if raw.get("use_sliding_window", family.values.get("use_sliding_window")) is False:
        raw = {**raw, "sliding_window": None}  # whatever it says
    if family.window == "all" and set(raw.get("layer_types") or ()) - {SLIDING if raw.get("sliding_window") else FULL}:
        raise ValueError(f"layer_types of a {family.name} {raw['layer_types']!r:.60} is not supported: all layers are alike")
    file = validate(ConfigFile, {key: raw.get(key, default) for key, default in family.values.items()}, "")
    if file.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {file.hidden_act!r:.60} is not supported; there are {', '.join(ACTIVATIONS)}")
    theta, scaling = read_rope(raw, file.max_position_embeddings, family.rope_theta)
    head_dim = file.head_dim or max(1, file.hidden_size // file.num_attention_heads)
    return DecoderConfig(
        vocab_size=file.vocab_size,
        dim=file.hidden_size,
        num_layers=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        num_kv_heads=file.num_key_value_heads or file.num_attention_heads,
        context_length=file.max_position_embeddings,
        head_dim=None if head_dim * file.num_attention_heads == file.hidden_size else head_dim,
        attention_bias=file.attention_bias or family.attention_bias,
        query_key_norm=family.query_key_norm,
        clip_qkv=file.clip_qkv,
        **_read_window(file, family),
        rope_theta=theta,
        rope_scaling=scaling,
        **_read_experts(file),
        activation=ACTIVATIONS[file.hidden_act],
        ffn_bias=file.mlp_bias,
        normalize_top_k=file.norm_topk_prob,
        norm_eps=file.rms_norm_eps,
        tie_embeddings=file.tie_word_embeddings,
    )


def _read_window(file: ConfigFile, family: Family) -> dict:
    window = file.sliding_window if file.use_sliding_window and family.window != "none" else None
    kinds, layers = file.layer_types, file.num_hidden_layers
    if kinds is not None and len(kinds) != layers:
        raise ValueError(f"layer_types has {len(kinds)} entries for {layers} layers")
    if window is None and kinds is not None and SLIDING in kinds:
        raise ValueError("layer_types has sliding_attention, and there is no sliding_window in use")
    if window is None or family.window == "all":
        return {"sliding_window": window}
    full = range(min(file.max_window_layers, layers)) if kinds is None else (i for i in range(layers) if kinds[i] != SLIDING)
    full_attention_layers = tuple(full)
    if len(full_attention_layers) == layers:
        return {"sliding_window": None}
    return {"sliding_window": window, "full_attention_layers": full_attention_layers}


def _read_experts(file: ConfigFile) -> dict:
    """A dense model is one expert; a mixture may have dense layers in between."""
    if file.num_experts == 0:
        return {"num_experts": 1, "top_k": 1, "expert_dim": file.intermediate_size}
    step, dense = file.decoder_sparse_step, set(file.mlp_only_layers or ())
    dense_layers = tuple(i for i in range(file.num_hidden_layers) if i in dense or (i + 1) % step)
    shape = {"num_experts": file.num_experts, "top_k": file.num_experts_per_tok}
    shape["expert_dim"] = file.moe_intermediate_size or file.intermediate_size
    return shape | ({"dense_layers": dense_layers, "dense_dim": file.intermediate_size} if dense_layers else {})


def misfits(config: DecoderConfig, family: Family) -> list[str]:
    """The options of ours, with their values, that a config.json of this family cannot say; none: it fits."""
    moe_layers = [i for i in range(config.num_layers) if config.is_moe(i)]
    keys, dense = family.values, len(moe_layers) < config.num_layers
    windows = {config.window(i) for i in range(config.num_layers)}
    lone = config.num_experts == 1  # a mixture of one expert
    can = {
        "shifted_kv_heads": config.shifted_kv_heads == 0,
        "query_key_norm": config.query_key_norm == family.query_key_norm,
        "attention_bias": "attention_bias" in keys or config.attention_bias == family.attention_bias,
        "ffn_bias": "mlp_bias" in keys or not config.ffn_bias,
        "clip_qkv": "clip_qkv" in keys or config.clip_qkv is None,
        "sliding_window": windows == {None} or family.window != "none",
        "full_attention_layers": len(windows) == 1 or family.window != "all",
        "num_experts": family.has_experts if moe_layers else "mlp_only_layers" in keys or not family.has_experts or lone,
        "dense_layers": not (moe_layers and dense and family.has_experts) or "mlp_only_layers" in keys,
        "dense_dim": len({config.ffn_dim(i) for i in range(config.num_layers) if i not in moe_layers}) <= 1,
        "shared_dim": not moe_layers or config.shared_dim == 0,
        "router": not moe_layers or config.router == "softmax",
        "normalize_top_k": not moe_layers or config.normalize_top_k or "norm_topk_prob" in keys,
        "routed_scale": not moe_layers or config.routed_scale == 1,
        "balance_bias_rate": not moe_layers or config.balance_bias_rate == 0,
        "num_heads": family.name != "llama" or config.dim % config.num_heads == 0,
        "head_dim": family.query_key_norm != "width" or config.head_size * config.num_heads == config.dim,
    }
    return [f"{name} {getattr(config, name)}" for name, fits in can.items() if not fits]


def write_config(config: DecoderConfig, family: Family, context_length: int | None) -> dict:
    """The config.json of a model that fits the family, without its data type and special tokens.

    `context_length` becomes max_position_embeddings where the rotary scaling does not fix it.
    """
    dense = [i for i in range(config.num_layers) if not config.is_moe(i)]
    kinds = [FULL if config.window(i) is None else SLIDING for i in range(config.num_layers)]
    windowed = SLIDING in kinds
    values = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim(dense[0]) if dense else config.expert_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": stretched_length(config.rope_scaling, context_length or config.context_length),
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "head_dim": config.head_size,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ffn_bias,
        "clip_qkv": config.clip_qkv,
        "use_sliding_window": windowed,
        "sliding_window": config.sliding_window if windowed else None,
        "max_window_layers": kinds.index(SLIDING) if windowed else config.num_layers,
        "layer_types": kinds,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "norm_topk_prob": config.normalize_top_k,
        "moe_intermediate_size": config.expert_dim,
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
    }
    values = {key: values[key] for key in family.values}
    if family.name == "mixtral":
        values["num_local_experts"] = values.pop("num_experts")
    rope = write_rope(config.rope_theta, config.rope_scaling)
    return {"architectures": [family.architecture], "model_type": family.name, **values, **rope}
