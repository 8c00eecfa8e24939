"""A small random decoder written as llama.cpp's converter writes one, by the `gguf` package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from vlm import DecoderConfig, TextDecoder

KIND = gguf.GGMLQuantizationType
DENSE = DecoderConfig(
    vocab_size=40, dim=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=12, num_experts=1, top_k=1, expert_dim=96
)


def decoder(config: DecoderConfig = DENSE) -> TextDecoder:
    """No weight is at its start."""
    model = TextDecoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5 + (parameter.ndim == 1))
    return model


def turned(weight: Tensor, heads: int) -> Tensor:
    """Rows in pairs (i, i + h/2) → pairs (i, i + 1), as in llama.cpp's converter."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tensors(model: TextDecoder, stacked: bool = True) -> dict[str, Tensor]:
    """By the names of GGUF; experts `stacked`, or numbered as in older files."""
    config, state = model.config, model.state_dict()
    out = {"token_embd.weight": state["embedding.weight"], "output_norm.weight": state["norm.weight"]}
    if not config.tie_embeddings:
        out["output.weight"] = state["head.weight"]
    for layer in range(config.num_layers):
        take, to = lambda name, at=f"layers.{layer}.": state.get(at + name), f"blk.{layer}."
        out[f"{to}attn_norm.weight"], out[f"{to}ffn_norm.weight"] = take("attention_norm.weight"), take("moe_norm.weight")
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            out[f"{to}attn_q.{kind}"] = turned(take(f"attention.query.{kind}"), config.num_heads)
            out[f"{to}attn_k.{kind}"] = turned(take(f"attention.key.{kind}"), config.num_kv_heads)
            out[f"{to}attn_v.{kind}"], out[f"{to}attn_output.{kind}"] = (
                take(f"attention.value.{kind}"),
                take(f"attention.out.{kind}"),
            )
        for ending, kind in (("", "weight"), ("_bias", "bias")) if config.ffn_bias else (("", "weight"),):
            gate, up = take(f"moe.experts.gate_up{ending}").chunk(2, dim=-1)
            for name, tensor in {"gate": gate, "up": up, "down": take(f"moe.experts.down{ending}")}.items():
                tensor = tensor.mT if kind == "weight" else tensor
                if config.num_experts == 1:
                    out[f"{to}ffn_{name}.{kind}"] = tensor[0]
                elif stacked:
                    out[f"{to}ffn_{name}_exps.{kind}"] = tensor
                else:
                    out |= {f"{to}ffn_{name}.{e}.{kind}": t for e, t in enumerate(tensor)}
        if config.num_experts > 1:
            out[f"{to}ffn_gate_inp.weight"] = take("moe.router.weight")
    return out


def fields(config: DecoderConfig) -> dict[str, object]:
    """The header of a decoder, without the architecture."""
    out = {
        "llama.block_count": config.num_layers,
        "llama.context_length": 128,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.expert_dim,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_size,
        "llama.attention.value_length": config.head_size,
        "llama.rope.dimension_count": config.head_size,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    moe = {"llama.expert_count": config.num_experts, "llama.expert_used_count": config.top_k}
    return out | (moe if config.num_experts > 1 else {})


def write(
    path: Path,
    weights: dict[str, Tensor | tuple[np.ndarray, KIND]],
    header: dict[str, object],
    architecture: str = "llama",
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """A tensor is written in float32 (its own type if bfloat16 or float16), or given packed with its type."""
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    add = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in header.items():
        add[type(value)](key, value)
    for name, tensor in weights.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
        elif tensor.dtype == torch.bfloat16:
            writer.add_tensor(name, tensor.contiguous().view(torch.uint8).numpy(), raw_dtype=KIND.BF16)
        else:
            writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path: Path, model: TextDecoder, stacked: bool = True, **header: object) -> Path:
    extra = {key.replace("__", "."): value for key, value in header.items()}
    return write(path, tensors(model, stacked), fields(model.config) | extra)


def packed(kind: KIND, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random blocks, bytes [rows, …]; the float16 scales in them are finite and small."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for start in SCALES[kind.name]:
        scale = random.uniform(-0.1, 0.1, (len(blocks), 1)).astype(np.float16)
        blocks[:, start : start + 2] = scale.view(np.uint8)
    return blocks.reshape(rows, columns // block * size)


# where the float16 numbers of a block stand, in bytes (ggml-common.h)
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
