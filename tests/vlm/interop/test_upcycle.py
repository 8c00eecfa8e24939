"""Upcycling: at the start the same function, and then what the options say, no more."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from vlm_fakes import CONFIG, DOCUMENTS, build, change

from vlm import VLM, DecoderConfig, ModelConfig, TextDecoder
from vlm.interop.upcycle import upcycle

DENSE = DecoderConfig(vocab_size=50, dim=32, num_layers=4, num_heads=4, num_kv_heads=2, num_experts=1, top_k=1, expert_dim=40)


def decoder(**options) -> TextDecoder:
    model = TextDecoder(dataclasses.replace(DENSE, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, mean=float(parameter.ndim == 1))
    return model


@pytest.mark.parametrize("experts, top_k, every", [(8, 2, 1), (4, 4, 2), (3, 1, 4), (2, 2, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"ffn_bias": True, "attention_bias": True, "tie_embeddings": False}], ids=["plain", "biases"]
)
def test_the_function_is_unchanged(experts, top_k, every, options):
    model = decoder(**options)
    tokens = torch.randint(50, (2, 33))
    moe = upcycle(model, experts, top_k, every=every)
    assert (moe(tokens) - model(tokens)).abs().max() < 1e-5
    assert (moe.double()(tokens) - model.double()(tokens)).abs().max() < 1e-12
    routed = [layer for layer in range(4) if moe.layers[layer].moe.router is not None]
    assert routed == [layer for layer in range(4) if (layer + 1) % every == 0]
    assert moe.config.num_experts == experts and moe.config.top_k == top_k and not moe.training


def test_tokens_go_to_all_experts():
    """The new router chooses: not every token goes the same way."""
    moe = upcycle(decoder(), 8, 2)
    counts = moe.hidden(torch.randint(50, (4, 64))).router.counts.sum(dim=1)
    assert (counts > 0).float().mean() > 0.9


def test_what_is_saved_is_what_the_config_builds():
    """The state fits a model made from the new config, and nothing is shared with the old model."""
    model = decoder(ffn_bias=True, balance_bias_rate=0.01)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    moe = upcycle(model, 4, 2, every=2)
    fresh = TextDecoder(moe.config)
    fresh.load_state_dict(moe.state_dict())
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert moe.layers[1].moe.router.bias.dtype == torch.float32


def test_a_whole_model(processor):
    model = build(change(decoder={"num_experts": 1, "top_k": 1}))
    moe = upcycle(model, 4, 2)
    assert isinstance(moe, VLM) and isinstance(moe.config, ModelConfig) and moe.config.decoder.num_experts == 4
    batch = processor(DOCUMENTS)
    with torch.no_grad():
        assert (moe(batch).logits - model(batch).logits).abs().max() < 1e-5
    assert model.config.decoder.num_experts == 1


def test_noise_is_relative_to_each_matrix():
    model = decoder()
    moe = upcycle(model, 4, 2, noise=0.1)
    dense, experts = model.layers[2].moe.experts, moe.layers[2].moe.experts
    for name in ("gate_up", "down"):
        difference = getattr(experts, name) - getattr(dense, name)
        assert (difference.flatten(1).std(dim=1) / getattr(dense, name).std()).sub(0.1).abs().max() < 0.01
    assert not torch.equal(experts.down[0], experts.down[1])


@pytest.mark.parametrize("reinit", [0.25, 0.5, 1.0])
def test_reinit_draws_the_same_units_anew_everywhere(reinit):
    model = decoder(ffn_bias=True, expert_dim=400)
    with torch.no_grad():
        model.layers[0].moe.experts.gate_up[:, :, 400:].mul_(3).add_(5)  # up has other statistics than gate
    moe = upcycle(model, 3, 2, reinit=reinit)
    dense, experts = model.layers[0].moe.experts, moe.layers[0].moe.experts
    gate, up = ((experts.gate_up - dense.gate_up) != 0).chunk(2, dim=-1)
    down = (experts.down - dense.down) != 0
    units = down.any(dim=2)
    assert torch.equal(gate.any(dim=1), units) and torch.equal(up.any(dim=1), units)
    assert (units.sum(dim=1) == reinit * 400).all()
    if reinit < 1:
        assert not torch.equal(units[0], units[1])
    drawn = experts.gate_up[0].chunk(2, dim=-1)[1][:, units[0]]
    wanted = dense.gate_up[0].chunk(2, dim=-1)[1]
    assert drawn.mean().item() == pytest.approx(wanted.mean().item(), rel=0.05)
    assert drawn.std().item() == pytest.approx(wanted.std().item(), rel=0.05)
    assert torch.equal(experts.down_bias, dense.down_bias.expand(3, -1))


def test_the_seed_decides():
    model = decoder()
    one, same, other = (upcycle(model, 4, 2, noise=0.1, reinit=0.5, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.moe.experts.down"], other["layers.0.moe.experts.down"])
    assert not torch.equal(one["layers.0.moe.router.weight"], other["layers.0.moe.router.weight"])


def test_half_precision_and_training_mode_are_kept():
    model = decoder().to(torch.bfloat16).train().requires_grad_(False)
    moe = upcycle(model, 4, 2, noise=0.1)
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in moe.parameters())
    assert all(module.training for module in moe.modules())


def test_layers_that_are_dense_by_config_stay():
    model = decoder(dense_layers=(0,), dense_dim=24)
    moe = upcycle(model, 2, 1)
    assert moe.config.dense_layers == (0,) and moe.layers[0].moe.experts.down.shape == (1, 24, 32)
    tokens = torch.randint(50, (1, 20))
    assert (moe(tokens) - model(tokens)).abs().max() < 1e-5
    with pytest.raises(ValueError, match="width of their own"):
        upcycle(model, 2, 1, every=2)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"experts": 1}, "experts 1"),
        ({"experts": 4, "top_k": 5}, "top_k 5 is not between 1 and experts 4"),
        ({"top_k": 0}, "top_k 0"),
        ({"noise": -0.1}, "noise -0.1"),
        ({"noise": math.nan}, "noise nan"),
        ({"reinit": 1.5}, "reinit 1.5"),
        ({"every": 5}, "every 5"),
        ({"every": 0}, "every 0"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        upcycle(decoder(), **options)


def test_experts_are_not_made_twice():
    with pytest.raises(ValueError, match="mixture of 4 experts already"):
        upcycle(build(CONFIG), 8)
