"""Mixtures of experts of a few hundred random weights, with every option."""

from __future__ import annotations

import torch

from vlm.config import DecoderConfig
from vlm.moe import MoE, RouterStats

SHAPE = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "num_experts": 5, "top_k": 2, "expert_dim": 12}
OPTIONS = {
    "mixtral": {},
    "top-1": {"top_k": 1},
    "all experts": {"top_k": 5},
    "raw weights": {"normalize_top_k": False, "top_k": 3},
    "dense": {"num_experts": 1, "top_k": 1},
    "dense with bias": {"num_experts": 1, "top_k": 1, "ffn_bias": True},
    "dense layer": {"dense_layers": (0,), "dense_dim": 20, "shared_dim": 8},
    "bias of experts": {"ffn_bias": True},
    "shared": {"shared_dim": 10},
    "shared with bias": {"shared_dim": 10, "ffn_bias": True, "top_k": 1},
    "sigmoid": {"router": "sigmoid"},
    "sigmoid, raw": {"router": "sigmoid", "normalize_top_k": False},
    "balance bias": {"balance_bias_rate": 0.1, "top_k": 3},
    "deepseek": {"router": "sigmoid", "balance_bias_rate": 0.1, "routed_scale": 2.5, "shared_dim": 12},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "relu": {"activation": "relu"},
}


def moe(**options) -> MoE:
    module = MoE(DecoderConfig(**{**SHAPE, **options}), layer=0)
    for parameter in module.parameters():  # MoE's own are made by the decoder
        torch.nn.init.normal_(parameter, std=0.5)
    if module.router is not None and module.router.bias is not None:
        module.router.bias.normal_(std=0.5)
    return module


def run(module: MoE, x: torch.Tensor) -> tuple[torch.Tensor, RouterStats | None]:
    everything = torch.ones(x.shape[:2], dtype=torch.bool)
    return module(x, everything, everything)


def routing(module: MoE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, RouterStats]:
    everything = torch.ones(len(x), dtype=torch.bool)
    return module.router(x, everything, everything)
