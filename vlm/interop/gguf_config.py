"""The header of a GGUF file of the architecture `llama` → `DecoderConfig`.

A field that changes the arithmetic and is not known here is refused, never passed over. Scaled rotary frequencies come in two
ways: by name (linear, yarn), or, for Llama 3, as the result: a divisor for each pair, from which the scaling is found again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from vlm.config import DecoderConfig, RopeScaling
from vlm.interop.gguf_file import GGUFFile, Value

ARCHITECTURE = "llama"
WITHOUT_EFFECT = ("context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned")
NEUTRAL = {
    "attention.causal": True,
    "embedding_scale": 1.0,
    "expert_gating_func": 1,  # softmax
    "expert_weights_norm": True,
    "expert_weights_scale": 1.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
}
ATTENTION = {"query": "attn_q", "key": "attn_k", "value": "attn_v", "out": "attn_output"}
Shape = TypeVar("Shape")
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


def read_config(file: GGUFFile) -> DecoderConfig:
    """Raises `ValueError` naming the field that misses, is out of range or is not supported."""
    architecture = file.fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ValueError(f"{file.path} is of the architecture {str(architecture)[:40]!r}; read is: {ARCHITECTURE}")
    take = _Fields(file)
    heads, dim, experts = (
        take.integer("attention.head_count"),
        take.integer("embedding_length"),
        take.integer("expert_count", 0),
    )
    head_dim = take.integer("attention.key_length", dim // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if take.integer(key, head_dim) != head_dim:
            raise ValueError(
                f"{file.path} has llama.{key} {take.integer(key)} and heads of {head_dim}: other sizes are not read"
            )
    layers = take.integer("block_count")
    scaling = _rope_scaling(file, take, head_dim)
    shape = {
        "vocab_size": file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 1,
        "dim": dim,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": take.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "attention_bias": _has_bias(file, ATTENTION.values()),
        "clip_qkv": take.real("attention.clamp_kqv", 0.0) or None,
        "sliding_window": take.integer("attention.sliding_window", 0) or None,
        "rope_theta": take.real("rope.freq_base", 10_000.0),
        "rope_scaling": None if scaling is None else dataclasses.asdict(scaling),
        "num_experts": experts or 1,
        "top_k": take.integer("expert_used_count") if experts > 1 else 1,
        "expert_dim": take.integer("expert_feed_forward_length", 0) or take.integer("feed_forward_length"),
        "ffn_bias": _has_bias(file, FEED_FORWARD),
        "norm_eps": take.real("attention.layer_norm_rms_epsilon"),
        "tie_embeddings": "output.weight" not in file.tensors,
    }
    if layers > len(file.tensors):
        raise ValueError(f"{file.path} has llama.block_count {layers} and only {len(file.tensors)} tensors")
    take.refuse_others()
    return _validated(DecoderConfig, shape, file)


class _Fields:
    """The fields `llama.…`; it remembers which were asked for."""

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self.fields = {k.removeprefix("llama."): v for k, v in file.fields.items() if k.startswith("llama.")}
        self.known = {*WITHOUT_EFFECT, "expert_used_count", "expert_feed_forward_length", "feed_forward_length"}

    def integer(self, key: str, default: int | None = None) -> int:
        """Without a default the field must be there and positive."""
        value = self.value(key, default)
        if type(value) is not int or value < (default is None):
            raise ValueError(f"{self.path} has llama.{key} {str(value)[:40]!r}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """As `integer`; a float32 comes in its shortest form: 1e-05 and not 9.999999747378752e-06."""
        value = self.value(key, default)
        if not isinstance(value, float) or not 0 <= value < math.inf or (default is None and value == 0):
            raise ValueError(f"{self.path} has llama.{key} {str(value)[:40]!r}")
        return float(str(np.float32(value)))

    def value(self, key: str, default: Value | None = None) -> Value:
        self.known.add(key)
        value = self.fields.get(key, default)
        if value is None:
            raise ValueError(f"{self.path} has no field llama.{key}")
        return value

    def refuse_others(self) -> None:
        """Raise on a field that says something and that nobody asked for."""
        for key, value in self.fields.items():
            if key not in self.known and value and value != NEUTRAL.get(key):
                raise ValueError(f"{self.path} has llama.{key} {str(value)[:40]!r}, which is not supported")


def _has_bias(file: GGUFFile, modules: Iterable[str]) -> bool:
    return any(f"blk.0.{module}.bias" in file.tensors for module in modules)


def _validated(kind: type[Shape], values: dict, file: GGUFFile) -> Shape:
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{file.path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _rope_scaling(file: GGUFFile, take: _Fields, head_dim: int) -> RopeScaling | None:
    kind = take.value("rope.scaling.type", "linear")
    factor = take.real("rope.scaling.factor", 0.0) or take.real("rope.scale_linear", 0.0) or 1.0
    yarn = {
        "kind": "yarn",
        "factor": factor,
        "original_length": take.integer("rope.scaling.original_context_length", 0) or take.integer("context_length", 0) or None,
        "beta_fast": take.real("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": take.real("rope.scaling.yarn_beta_slow", 1.0),
        "attention_factor": take.real("rope.scaling.attn_factor", 1.0) * (0.1 * math.log(factor) + 1.0),
    }
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"{file.path} has llama.rope.scaling.type {str(kind)[:40]!r}; none, linear and yarn are read")
    if "rope_freqs.weight" in file.tensors:
        if factor != 1.0 and kind != "none":
            raise ValueError(f"{file.path} has both rope_freqs.weight and a {kind} scaling: one of them is read")
        return _llama3(file, take.real("rope.freq_base", 10_000.0), head_dim)
    if kind == "none" or factor == 1.0:
        return None
    return _validated(RopeScaling, yarn if kind == "yarn" else {"kind": "linear", "factor": factor}, file)


def _borders(turns: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    """Where a ramp through these points begins and ends; where few points stand on it, one of those that do."""
    on = (kept > 1e-3) & (kept < 1 - 1e-3)
    if on.sum() >= 2:
        slope, offset = np.polyfit(turns[on], kept[on], 1)
        return float(-offset / slope), float((1 - offset) / slope)
    below = float(turns[kept <= 1e-3].max(initial=turns.min() / 2))
    above = float(turns[kept >= 1 - 1e-3].min(initial=turns.max() * 2))
    if not on.any():
        return below, above
    at, share = float(turns[on][0]), float(kept[on][0])
    low = max(below, (at - share * above) / (1 - share))
    return low, low + (at - low) / share


def _llama3(file: GGUFFile, theta: float, head_dim: int, original: int = 8192) -> RopeScaling | None:
    """The scaling whose divisors of the frequencies are those in the file.

    The share of a frequency that is kept is linear in it between two borders: they are those of Llama 3, or found from the
    points, in turns over `original` tokens, which may be any length. What they give is then held against the file.
    """
    if file.tensors["rope_freqs.weight"].shape != (head_dim // 2,):
        raise ValueError(f"{file.path}: rope_freqs.weight is not one number for each of {head_dim // 2} pairs")
    divisor = file.read("rope_freqs.weight").astype(np.float64)
    factor = float(divisor.max())
    if not (np.isfinite(divisor).all() and divisor.min() >= 1):
        raise ValueError(f"{file.path}: rope_freqs.weight has a divisor that is not 1 or more")
    if factor == 1:
        return None
    turns = original / (2 * math.pi) * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    kept = (1 / divisor - 1 / factor) / (1 - 1 / factor)
    for low, high in ((1.0, 4.0), _borders(turns, kept)):
        if 0 < low < high and np.allclose(((turns - low) / (high - low)).clip(0, 1), kept, rtol=0, atol=1e-5):
            return RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
    raise ValueError(f"{file.path}: rope_freqs.weight is not a scaling as of Llama 3, the kind that is read")
