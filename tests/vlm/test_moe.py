"""Mixture of experts with every option, against a loop over tokens and against transformers' blocks."""

import dataclasses
import itertools
import math

import pytest
import torch
from moe_fakes import OPTIONS, SHAPE, moe, routing, run

from vlm import TextDecoder
from vlm.config import DecoderConfig
from vlm.moe import MoE, RouterStats, grouped_matmul

ACTIVATION = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
}


def feed_forward(experts, e: int, x: torch.Tensor, activation: str) -> torch.Tensor:
    biased = experts.down_bias is not None
    gate, up = (x @ experts.gate_up[e] + (experts.gate_up_bias[e] if biased else 0)).chunk(2, dim=-1)
    return (ACTIVATION[activation](gate) * up) @ experts.down[e] + (experts.down_bias[e] if biased else 0)


def by_token(module: MoE, x: torch.Tensor, options: dict) -> torch.Tensor:
    """Each token [N, D] alone, its experts one by one."""
    config = DecoderConfig(**{**SHAPE, **options})

    def expert(experts, e, token):
        return feed_forward(experts, e, token, config.activation)

    if module.router is None:
        return expert(module.experts, 0, x)
    logits = x @ module.router.weight.T
    scores = logits.softmax(-1) if config.router == "softmax" else torch.sigmoid(logits)
    biased = scores.detach() + (0 if module.router.bias is None else module.router.bias)
    rows = []
    for token, score, rank in zip(x, scores, biased.argsort(descending=True).tolist(), strict=True):
        chosen = rank[: config.top_k]
        total = sum(score[e] for e in chosen) if config.normalize_top_k else 1.0
        row = sum(config.routed_scale * score[e] / total * expert(module.experts, e, token) for e in chosen)
        rows.append(row + (0 if module.shared is None else expert(module.shared, 0, token)))
    return torch.stack(rows)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_a_loop_over_tokens(options):
    module = moe(**options).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    ours = run(module, x)[0]
    expected = by_token(module, x.flatten(0, 1), options).view_as(x)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-10)
    wanted = [x, *module.parameters()]
    direction = torch.randn_like(x)
    for name, a, b in zip(
        ["x", *dict(module.named_parameters())],
        torch.autograd.grad((ours * direction).sum(), wanted, allow_unused=True),
        torch.autograd.grad((expected * direction).sum(), wanted, allow_unused=True),
        strict=True,
    ):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9, check_dtype=False, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_token_and_none(options):
    module = moe(**options)
    x = torch.randn(1, 1, 16)
    torch.testing.assert_close(run(module, x)[0][0], by_token(module, x[0], options), atol=1e-5, rtol=1e-4)
    assert run(module, torch.randn(2, 0, 16))[0].shape == (2, 0, 16)


def test_names_and_shapes_of_the_weights():
    """Files hold these names."""
    everything = moe(ffn_bias=True, shared_dim=10, balance_bias_rate=0.1)
    assert {n: tuple(t.shape) for n, t in everything.state_dict().items()} == {
        "router.weight": (5, 16),
        "router.bias": (5,),
        "experts.gate_up": (5, 16, 24),
        "experts.down": (5, 12, 16),
        "experts.gate_up_bias": (5, 24),
        "experts.down_bias": (5, 16),
        "shared.gate_up": (1, 16, 20),
        "shared.down": (1, 10, 16),
        "shared.gate_up_bias": (1, 20),
        "shared.down_bias": (1, 16),
    }
    assert set(moe().state_dict()) == {"router.weight", "experts.gate_up", "experts.down"}
    dense = moe(dense_layers=(0,), dense_dim=20, shared_dim=10, balance_bias_rate=0.1)
    assert {n: tuple(t.shape) for n, t in dense.state_dict().items()} == {
        "experts.gate_up": (1, 16, 40),
        "experts.down": (1, 20, 16),
    }


def test_experts_that_no_token_chose_get_a_zero_gradient():
    module = moe(num_experts=4, top_k=1)
    with torch.no_grad():
        module.router.weight.zero_()
        module.router.weight[2] = 1.0
    out, stats = run(module, torch.rand(1, 6, 16))
    out.sum().backward()
    assert stats.counts.sum(0).tolist() == [0, 0, 6, 0]
    assert [bool(g.any()) for g in module.experts.down.grad] == [False, False, True, False]


def test_products_of_groups_of_any_size():
    x, weight = torch.randn(7, 3), torch.randn(4, 3, 2)
    for sizes in ([7, 0, 0, 0], [0, 0, 0, 7], [2, 0, 4, 1], [1, 2, 3, 1]):
        ends = torch.tensor(list(itertools.accumulate(sizes)))
        expected = torch.cat([rows @ w for rows, w in zip(x.split(sizes), weight, strict=True)])
        assert torch.equal(grouped_matmul(x, weight, ends), expected)


# -- precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, OPTIONS["deepseek"]])
def test_routing_and_its_sums_are_in_float32_under_autocast(options):
    module, x = moe(**options), torch.randn(3000, 16)
    plain = routing(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        weights, experts, stats = routing(module, x)
    assert torch.equal(weights, plain[0]) and torch.equal(experts, plain[1])
    for field in dataclasses.fields(RouterStats):  # bf16 could not count to 3000
        assert torch.equal(getattr(stats, field.name), getattr(plain[2], field.name)), field.name


def test_a_bf16_model_routes_in_float32():
    module, x = moe(**OPTIONS["deepseek"]).bfloat16(), torch.randn(200, 16).bfloat16()
    weights, experts, stats = routing(module, x)
    assert weights.dtype == stats.probability.dtype == torch.float32
    exact = routing(module.float(), x.float())
    assert torch.equal(weights, exact[0]) and torch.equal(experts, exact[1])
    assert run(module.bfloat16(), x[None])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("convert", [lambda m: m.bfloat16(), lambda m: m.to(torch.float16), lambda m: m.double()])
def test_the_balance_bias_stays_float32(convert):
    module = moe(balance_bias_rate=0.001)
    before = module.router.bias.clone()
    convert(module)
    assert module.router.weight.dtype != torch.float32
    assert module.router.bias.dtype == torch.float32 and torch.equal(module.router.bias, before)
    assert set(module.state_dict()) >= {"router.bias"}


def test_a_model_built_on_meta_gets_a_bias_of_zeros():
    with torch.device("meta"):
        decoder = TextDecoder(DecoderConfig(**SHAPE, vocab_size=9, balance_bias_rate=0.1))
    decoder.to_empty(device="cpu").reset_parameters()
    bias = decoder.layers[0].moe.router.bias
    assert bias.dtype == torch.float32 and not bias.any()
    with torch.device("meta"):
        half = TextDecoder(DecoderConfig(**SHAPE, vocab_size=9, balance_bias_rate=0.1)).bfloat16()
    assert half.layers[0].moe.router.bias.dtype == torch.float32 and half.layers[0].moe.router.bias.is_meta


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_logits_give_finite_weights_and_gradients(router, size):
    module = moe(router=router)
    with torch.no_grad():
        module.router.weight.fill_(size)
    out, stats = run(module, torch.rand(1, 4, 16))
    (out.square().sum() + stats.probability.sum() + stats.z.sum()).backward()
    assert all(torch.isfinite(t).all() for t in (out, stats.probability, *(p.grad for p in module.parameters())))


# -- transformers -------------------------------------------------------------------------------------------------------


def peer_weights(module: MoE) -> dict[str, torch.Tensor]:
    """Under the names that transformers' blocks have in common."""
    weights = {
        "gate.weight": module.router.weight,
        "experts.gate_up_proj": module.experts.gate_up.mT,
        "experts.down_proj": module.experts.down.mT,
    }
    if module.router.bias is not None:
        weights["gate.e_score_correction_bias"] = module.router.bias
    if module.shared is not None:
        gate, up = module.shared.gate_up[0].T.chunk(2)
        weights |= {"shared_experts.gate_proj.weight": gate, "shared_experts.up_proj.weight": up}
        weights["shared_experts.down_proj.weight"] = module.shared.down[0].T
    return {name: t.detach().contiguous() for name, t in weights.items()}


PEERS = {
    "Mixtral": ("mixtral", "MixtralSparseMoeBlock", {"intermediate_size": 12}, {}),
    "Olmoe": ("olmoe", "OlmoeSparseMoeBlock", {"intermediate_size": 12}, {"normalize_top_k": False}),
    "Qwen3Moe": ("qwen3_moe", "Qwen3MoeSparseMoeBlock", {}, {}),
    "DeepseekV3": (
        "deepseek_v3",
        "DeepseekV3MoE",
        {"n_group": 1, "topk_group": 1, "n_shared_experts": 2, "routed_scaling_factor": 2.5},
        {"router": "sigmoid", "balance_bias_rate": 0.1, "routed_scale": 2.5, "shared_dim": 24},
    ),
}


@pytest.mark.parametrize("family", PEERS)
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_is_the_block_of_the_published_model(family, top_k):
    transformers = pytest.importorskip("transformers")
    folder, block, fields, options = PEERS[family]
    module = moe(num_experts=6, top_k=top_k, **options)
    common = {"hidden_size": 16, "moe_intermediate_size": 12, "num_experts_per_tok": top_k}
    common |= {"norm_topk_prob": options.get("normalize_top_k", True), "hidden_act": "silu"}
    config = getattr(transformers, f"{family}Config")(**common, **fields)
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if hasattr(config, name):
            setattr(config, name, 6)
    config._experts_implementation = "eager"
    peer = getattr(pytest.importorskip(f"transformers.models.{folder}.modeling_{folder}"), block)(config)
    peer.load_state_dict(peer_weights(module))  # strict: nothing is left out
    x = torch.randn(3, 7, 16)
    with torch.no_grad():
        theirs = peer(x)
        torch.testing.assert_close(run(module, x)[0], theirs, atol=1e-5, rtol=1e-4)
