"""torchtitan's Qwen3-MoE of our decoder's shape: SDPA attention, grouped products, softmax router, each block compiled whole.

Only its model classes are used. Their packages import the whole trainer (and Hugging Face's `datasets`, whose name ours bears),
so what the network does not need is left out by modules that stand in for it. Its balance bias is off, as it is no part of a
step; queries and keys are not normed, as ours are not. It counts pairs with an operation that CPUs lack, so it needs a GPU.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlm import DecoderConfig


def _stand_in(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules.setdefault(name, module)


def _classes() -> tuple[type, type, type]:
    spec = importlib.util.find_spec("torchtitan")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchtitan is not installed: pip install --no-deps torchtitan==0.2.2")
    _stand_in("torchtitan.config.manager", ConfigManager=None)  # reads command lines
    from torchtitan.protocols import model

    _stand_in("torchtitan.protocols.train_spec", BaseModelArgs=model.BaseModelArgs, ModelProtocol=model.ModelProtocol)
    _stand_in("torchtitan.models.qwen3", __path__=[str(Path(spec.submodule_search_locations[0], "models", "qwen3"))])
    from torchtitan.models.moe import MoEArgs
    from torchtitan.models.qwen3.model.args import Qwen3ModelArgs
    from torchtitan.models.qwen3.model.model import Qwen3Model

    return MoEArgs, Qwen3ModelArgs, Qwen3Model


def titan(config: DecoderConfig, length: int, device: str, dtype: torch.dtype, *, balanced: bool, compiled: bool) -> nn.Module:
    """For rows of `length` tokens. `ImportError` where torchtitan is not installed."""
    moe_args, model_args, model_class = _classes()
    experts = moe_args(
        num_experts=config.num_experts, num_shared_experts=0, score_func="softmax", route_norm=True, score_before_experts=False,
        top_k=config.top_k, use_grouped_mm=device.startswith("cuda"), load_balance_coeff=None,
        _debug_force_load_balance=balanced,
    )  # fmt: skip
    args = model_args(
        dim=config.dim, n_layers=config.num_layers, n_heads=config.num_heads, n_kv_heads=config.num_kv_heads,
        vocab_size=config.vocab_size, head_dim=config.head_size, norm_eps=config.norm_eps, rope_theta=config.rope_theta,
        qk_norm=False, max_seq_len=length, moe_enabled=True, moe_inter_dim=config.expert_dim, moe_args=experts,
        enable_weight_tying=config.tie_embeddings,
    )  # fmt: skip
    with torch.no_grad(), torch.device(device):
        model = model_class(args).to(dtype)
        model.init_weights(torch.device(device))
    if compiled:
        torch._dynamo.config.capture_scalar_outputs = True  # as its own compilation has it
        for block in model.layers.values():
            block.compile()
    return model
