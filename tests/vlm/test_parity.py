"""TextDecoder with copied weights against transformers: with experts a Mixtral, with one a Llama."""

import pytest
import torch
from vlm_fakes import randomize

from vlm import DecoderConfig, TextDecoder

transformers = pytest.importorskip("transformers")

SHAPES = [
    {"num_heads": 4, "num_kv_heads": 4},
    {"num_heads": 4, "num_kv_heads": 2},
    {"num_heads": 8, "num_kv_heads": 4, "head_dim": 10},
    {"num_heads": 4, "num_kv_heads": 1, "head_dim": 16, "tie_embeddings": False},
]


def decoder(**fields):
    model = TextDecoder(
        DecoderConfig(vocab_size=50, dim=32, num_layers=2, expert_dim=20, rope_theta=500.0, norm_eps=1e-4, **fields)
    )
    randomize(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def common(config):
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.expert_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attn_implementation": "eager",
    }


def shared_weights(model):
    """Names and tensors that Llama and Mixtral have in common."""
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "lm_head.weight", model.head_weight
    yield "model.norm.weight", model.norm.weight
    for i, layer in enumerate(model.layers):
        here = f"model.layers.{i}."
        yield here + "input_layernorm.weight", layer.attention_norm.weight
        yield here + "post_attention_layernorm.weight", layer.moe_norm.weight
        for theirs, ours in zip("qkvo", ("query", "key", "value", "out"), strict=True):
            yield f"{here}self_attn.{theirs}_proj.weight", getattr(layer.attention, ours).weight


def check(model, peer, weights):
    peer.load_state_dict({n: t.detach().contiguous() for n, t in weights})  # strict: nothing is left out
    tokens = torch.randint(0, 50, (3, 17))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), peer.eval()(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_expert_is_a_llama(shape):
    model = decoder(num_experts=1, top_k=1, **shape)
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common(model.config)))
    weights = list(shared_weights(model))
    for i, layer in enumerate(model.layers):
        gate, up = layer.moe.experts.gate_up[0].T.chunk(2)
        parts = {"gate": gate, "up": up, "down": layer.moe.experts.down[0].T}
        weights += [(f"model.layers.{i}.mlp.{name}_proj.weight", w) for name, w in parts.items()]
    check(model, peer, weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_experts_are_a_mixtral(shape):
    model = decoder(num_experts=5, top_k=2, **shape)
    config = transformers.MixtralConfig(**common(model.config), num_local_experts=5, num_experts_per_tok=2, sliding_window=None)
    peer = transformers.MixtralForCausalLM(config)
    if not any(name.endswith("mlp.experts.gate_up_proj") for name in peer.state_dict()):
        pytest.skip("this transformers keeps each expert by itself")
    weights = list(shared_weights(model))
    for i, layer in enumerate(model.layers):
        here = f"model.layers.{i}.mlp."
        weights += [
            (here + "gate.weight", layer.moe.router.weight),
            (here + "experts.gate_up_proj", layer.moe.experts.gate_up.mT),
            (here + "experts.down_proj", layer.moe.experts.down.mT),
        ]
    check(model, peer, weights)


def test_a_new_decoder_gives_each_tokens_own_embedding():
    """Projections into the stream start at zero, so logits are the normed embedding against the table."""
    model = TextDecoder(
        DecoderConfig(vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, num_experts=2, expert_dim=8)
    )
    tokens = torch.randint(0, 50, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model.norm(model.embedding(tokens)) @ model.embedding.weight.T)
