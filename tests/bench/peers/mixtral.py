"""transformers' Mixtral of our decoder's shape: SDPA attention, grouped products for the experts, `torch.compile`.

Its load-balance loss is off (`output_router_logits` false, its default), which spares it work that ours does.
"""

from __future__ import annotations

import torch
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from tests.bench.routing import force_balance
from vlm import DecoderConfig


def mixtral(
    config: DecoderConfig, length: int, device: str, dtype: torch.dtype, experts: str = "grouped_mm"
) -> MixtralForCausalLM:
    """For rows of up to `length` tokens; `experts`: the implementation, by transformers' name."""
    theirs = MixtralConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.expert_dim,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_size, num_local_experts=config.num_experts, num_experts_per_tok=config.top_k,
        max_position_embeddings=length, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.norm_eps, tie_word_embeddings=config.tie_embeddings, sliding_window=None,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="sdpa", experts_implementation=experts,
    )  # fmt: skip
    with torch.device(device):
        return MixtralForCausalLM(theirs).to(dtype)


def balance(model: MixtralForCausalLM) -> None:
    """Force its routing to balance."""
    force_balance((m for m in model.modules() if isinstance(m, MixtralTopKRouter)), model.config.num_local_experts)
