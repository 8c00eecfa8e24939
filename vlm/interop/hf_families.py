"""The text families: what each one's config.json can say.

A family is the keys that there are, with transformers' values where they are left out, and the options of ours that are fixed.
Sliding windows are those of transformers' own masks: all layers of Mistral, Mixtral and Qwen3-MoE, the listed (or the last)
layers of Qwen2 and Qwen3, and none of Llama and OLMoE, whatever their files say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Window = Literal["none", "all", "layers"]


@dataclass(frozen=True)
class Family:
    """What a `model_type` is. `defaults`: its keys beyond the common ones, and where it differs in these."""

    name: str
    architecture: str
    defaults: dict = field(default_factory=dict)
    window: Window = "none"
    query_key_norm: Literal["none", "head", "width"] = "none"
    attention_bias: bool = False  # always, and of queries, keys and values alone (Qwen2)
    rope_theta: float = 10_000.0  # where the file has none
    block: str = "mlp"  # the module of experts, and the parts of each
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    @property
    def values(self) -> dict:
        return COMMON | self.defaults

    @property
    def has_experts(self) -> bool:
        return "num_experts" in self.defaults


COMMON = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "head_dim": None,
}
_MISTRAL = {"intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072}
_QWEN = {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
}
_LAYERS = {"max_window_layers": 28, "layer_types": None}
_OLMOE = {
    "vocab_size": 50_304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "clip_qkv": None,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
_QWEN_MOE = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "attention_bias": False,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
}
_MIXTRAL = {"rms_norm_eps": 1e-5, "sliding_window": None, "num_experts": 8, "num_experts_per_tok": 2}
FAMILIES = {  # in the order in which export looks for one that fits
    f.name: f
    for f in (
        Family("llama", "LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False}),
        Family("mistral", "MistralForCausalLM", _MISTRAL | {"sliding_window": 4096}, "all"),
        Family("qwen2", "Qwen2ForCausalLM", _QWEN | _LAYERS, "layers", attention_bias=True),
        Family("qwen3", "Qwen3ForCausalLM", _QWEN | _LAYERS | {"head_dim": 128, "attention_bias": False}, "layers", "head"),
        Family(
            "mixtral",
            "MixtralForCausalLM",
            _MISTRAL | _MIXTRAL,
            "all",
            rope_theta=1e6,
            block="block_sparse_moe",
            parts=("w1", "w3", "w2"),
        ),
        Family("olmoe", "OlmoeForCausalLM", _OLMOE, "none", "width"),
        Family("qwen3_moe", "Qwen3MoeForCausalLM", _QWEN | _QWEN_MOE, "all", "head"),
    )
}
