"""Checkpoints that transformers makes, a few thousand random weights each, and what it computes with them.

To try another config, add a line to CASES: a `model_type` and what its config is to have beside SMALL.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXTURE = {"num_experts": 5, "num_experts_per_tok": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0}
SHORT = {"max_position_embeddings": 16}  # sequences are longer than the original context

CASES: list[tuple[str, dict]] = [
    ("llama", {"tie_word_embeddings": True, "rope_theta": 500.0}),
    ("llama", {"head_dim": 10, "attention_bias": True, "num_key_value_heads": 1}),
    ("llama", {"mlp_bias": True, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 1000.0}),
    ("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8}, "rope_theta": 100.0}),
    ("llama", {"rope_scaling": DYNAMIC, **SHORT, "hidden_act": "gelu"}),
    ("llama", {"rope_scaling": YARN, "tie_word_embeddings": True}),
    (
        "llama",
        {"rope_scaling": {**YARN, "truncate": False, "beta_slow": 0.1, "mscale": 0.7, "mscale_all_dim": 0.3}, "head_dim": 16},
    ),
    ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "rope_theta": 300.0}}),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, **SHORT}),
    ("llama", {"rope_scaling": YARN, "original_max_position_embeddings": 5, "rope_theta": 100.0}),
    ("mistral", {"sliding_window": 5, "head_dim": 6}),
    ("mistral", {"sliding_window": None, "hidden_size": 30, "head_dim": 12, "tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 10, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 16, "attention_bias": True, "num_attention_heads": 6, "num_key_value_heads": 3}),
    ("qwen3", {"head_dim": 8, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}),
    (
        "qwen3",
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8},
        },
    ),
    ("mixtral", {"num_local_experts": 5}),
    ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 3, "sliding_window": 4, "head_dim": 10}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1, "tie_word_embeddings": True, "hidden_act": "relu"}),
    (
        "mixtral",
        {"num_local_experts": 4, "head_dim": 12, "rope_scaling": {**DYNAMIC, "original_max_position_embeddings": 5}, **SHORT},
    ),
    ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 1}),
    ("olmoe", {**MIXTURE}),
    ("olmoe", {**MIXTURE, "clip_qkv": 0.6, "norm_topk_prob": True, "num_key_value_heads": 1}),
    ("olmoe", {**MIXTURE, "attention_bias": True, "tie_word_embeddings": True, "num_experts_per_tok": 5}),
    ("olmoe", {**MIXTURE, "rope_scaling": YARN, "num_key_value_heads": 4}),
    ("qwen3_moe", {**MIXTURE, "moe_intermediate_size": 20, "head_dim": 10}),
    ("qwen3_moe", {**MIXTURE, "moe_intermediate_size": 24, "norm_topk_prob": True, "mlp_only_layers": [1]}),
    (
        "qwen3_moe",
        {**MIXTURE, "moe_intermediate_size": 12, "decoder_sparse_step": 2, "attention_bias": True, "tie_word_embeddings": True},
    ),
    (
        "qwen3_moe",
        {
            **MIXTURE,
            "moe_intermediate_size": 20,
            "use_sliding_window": True,
            "sliding_window": 4,
            "head_dim": 16,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    ),
]
NAMES = [f"{i}-{kind}" for i, (kind, _) in enumerate(CASES)]
LENGTHS = (37, 5, 24)
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}  # other kernels want widths of 16 bytes


def make(kind: str, fields: dict, seed: int = 0) -> torch.nn.Module:
    """A model of transformers in which no weight is trivial."""
    config = transformers.AutoConfig.for_model(kind, **SMALL | fields)
    model = transformers.AutoModelForCausalLM.from_config(config, **EAGER).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.sub_(1)
    return model


def save(model: torch.nn.Module, directory: Path, **options) -> Path:
    model.save_pretrained(directory, **options)
    return directory


def read(directory: Path) -> torch.nn.Module:
    """As a user of transformers would."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, **EAGER).eval()


def rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, SMALL["vocab_size"], (n,), generator=generator) for n in lengths]


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """What transformers gives for each row of a right-padded batch. With dynamic scaling, where its numbers hang on the batch's
    longest row and on what it saw before, for each row by itself."""
    if model.config.rope_parameters["rope_type"] == "dynamic":
        return [copy.deepcopy(model)(row[None]).logits[0] for row in tokens]
    batch, real = pad(tokens)
    out = model(batch, attention_mask=real.long()).logits
    return [out[b, : len(row)] for b, row in enumerate(tokens)]


def pad(tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
    batch = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    lengths = torch.tensor([len(row) for row in tokens])
    return batch, torch.arange(batch.shape[1]) < lengths[:, None]
