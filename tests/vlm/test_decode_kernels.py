"""Each kernel, interpreted on the CPU, against the modules it stands for: odd sizes, ragged positions, every option."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from vlm_fakes import CONFIG, change, randomize

from vlm.cache import Cache
from vlm.decoder import DecoderLayer, TextDecoder
from vlm.fusion import GatedCrossAttention
from vlm.sight import Rows, Sight

pytest.importorskip("triton")
from vlm.decode import DecodeStep, feed_forward
from vlm.kernels import launch
from vlm.kernels.launch import Matrix, Norm

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
def test_expand_is_norm_linear_activation(rows: int, kind: str) -> None:
    norm = {"rms": torch.nn.RMSNorm(37, eps=1e-5), "layer": torch.nn.LayerNorm(37), "none": torch.nn.Identity()}[kind]
    linear = torch.nn.Linear(37, 21)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(rows, 37)
    found = launch.expand(x, Norm.of(norm), Matrix.linear(linear.weight, bias=linear.bias), "gelu")[:, 0]
    torch.testing.assert_close(found, torch.nn.functional.gelu(linear(norm(x))), **CLOSE)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "relu"])
def test_gated_linear(act: str) -> None:
    from vlm.activation import Act

    linear, x = torch.nn.Linear(20, 2 * 19, bias=False), torch.randn(2, 20)
    found = launch.expand(x, Norm.of(torch.nn.Identity()), Matrix.linear(linear.weight, gated=True), act)[:, 0]
    torch.testing.assert_close(found, Act(act, gated=True)(linear(x)), **CLOSE)


@pytest.mark.parametrize("rows", [1, 5])
def test_contract_adds_where_a_row_sees(rows: int) -> None:
    linear, h, x, scale = torch.nn.Linear(40, 18, bias=False), torch.randn(rows, 1, 40), torch.randn(rows, 18), torch.randn(18)
    sees = torch.arange(rows) % 2 == 0
    expected = torch.where(sees[:, None], x + scale * linear(h[:, 0]), x)
    launch.contract(h, Matrix.linear(linear.weight), x, scale=scale, sees=sees)
    torch.testing.assert_close(x, expected, **CLOSE)


FEED_FORWARDS = [
    {},
    {"num_experts": 1, "top_k": 1},
    {"num_experts": 7, "top_k": 3, "normalize_top_k": False, "ffn_bias": True, "activation": "gelu"},
    {"num_experts": 5, "top_k": 5, "router": "sigmoid", "routed_scale": 2.5, "balance_bias_rate": 0.1, "shared_dim": 9},
]


@pytest.mark.parametrize("rows", [1, 2, 18])
@pytest.mark.parametrize("options", FEED_FORWARDS)
def test_feed_forward_is_the_experts(rows: int, options: dict) -> None:
    config = dataclasses.replace(CONFIG.decoder, dim=36, head_dim=8, expert_dim=21, **options)
    layer = DecoderLayer(config, 0)
    randomize(layer)
    torch.nn.init.normal_(layer.moe_norm.weight)
    if layer.moe.router is not None and layer.moe.router.bias is not None:
        layer.moe.router.bias.normal_()
    x = torch.randn(rows, 36)
    with torch.no_grad():
        real = torch.ones(rows, 1, dtype=torch.bool)
        expected = x + layer.moe(layer.moe_norm(x)[:, None], real, ~real)[0][:, 0]
        feed_forward(x, Norm.of(layer.moe_norm), layer.moe, config.activation)
    torch.testing.assert_close(x, expected, **CLOSE)


ATTENTIONS = [
    {},
    {"num_kv_heads": 4, "head_dim": 12, "query_key_norm": "head"},
    {"num_kv_heads": 1, "query_key_norm": "width", "clip_qkv": 0.5, "attention_bias": True},
    {"shifted_kv_heads": 1, "sliding_window": 3, "query_key_norm": "head"},
    {"shifted_kv_heads": 2, "rope_theta": 100.0},
]


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("options", ATTENTIONS)
def test_a_step_is_the_modules_step(options: dict, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps behind rows of 1, 6 and 70 tokens, so that rows differ in how many tiles of keys they read."""
    monkeypatch.setattr(launch, "splits_of", lambda shape: splits)
    model = TextDecoder(dataclasses.replace(CONFIG.decoder, num_layers=1, vocab_size=19, num_experts=1, top_k=1, **options))
    randomize(model)
    caches = [Cache.empty(model.config, 3, 90, torch.device("cpu"), torch.float32) for _ in range(2)]
    for name in ("keys", "values", "unturned"):
        value = torch.randn_like(getattr(caches[0].layers[0], name))
        for cache in caches:
            setattr(cache.layers[0], name, value.clone())
    positions, step = torch.tensor([0, 6, 70]), DecodeStep(model, caches[1])
    with torch.no_grad():
        for tokens in torch.randint(0, 19, (2, 3)):
            expected = model.decode_step(tokens, positions, caches[0])
            torch.testing.assert_close(step(tokens, positions), expected, **CLOSE)
            positions = positions + 1
    for name in ("keys", "values", "unturned"):
        torch.testing.assert_close(getattr(caches[1].layers[0], name), getattr(caches[0].layers[0], name), **CLOSE)


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "yarn", "llama3"])
def test_rotary_positions_stretch_as_the_modules(scaling: str) -> None:
    from vlm.config import RopeScaling

    rope = RopeScaling(kind=scaling, factor=4.0, original_length=4)
    dense = {"num_layers": 1, "num_experts": 1, "top_k": 1}
    model = TextDecoder(dataclasses.replace(CONFIG.decoder, vocab_size=9, rope_scaling=rope, **dense))
    randomize(model)
    ours, theirs = (Cache.empty(model.config, 2, 20, torch.device("cpu"), torch.float32) for _ in range(2))
    ours.layers[0].keys.copy_(theirs.layers[0].keys.normal_())
    ours.layers[0].values.copy_(theirs.layers[0].values.normal_())
    tokens, positions = torch.tensor([3, 5]), torch.tensor([2, 17])
    with torch.no_grad():
        expected = model.decode_step(tokens, positions, theirs)
        torch.testing.assert_close(DecodeStep(model, ours)(tokens, positions), expected, **CLOSE)


FUSIONS = [
    {},
    {"norm": "rms", "ffn": "gated", "gate": "channel", "query_key_norm": True, "activation": "silu", "head_dim": 12},
    {"query_key_norm": True, "pass_without_image": False},
]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_gated_block_is_the_module(fusion: dict) -> None:
    """Rows that see the second of two media, both, and none."""
    config = change(fusion=fusion, decoder={"num_layers": 1, "num_experts": 1, "top_k": 1})
    model = TextDecoder(config.decoder)
    block = GatedCrossAttention(config.fusion, config.decoder.dim, 24)
    randomize(model)
    randomize(block)
    for parameter in block.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_()
    mask = torch.tensor([[[False, True]], [[True, True]], [[False, False]]])
    media = torch.tensor([[0, 1], [2, 1], [0, 0]])
    with torch.no_grad():
        keys = block.project_media(torch.randn(3, 5, 24))
        cache = Cache.empty(config.decoder, 3, 4, torch.device("cpu"), torch.float32)
        cache.media, cache.sight = (
            {"0": keys},
            Sight(mask.any(dim=-1), media[:, :1], Rows(media, mask | ~mask.any(dim=-1, keepdim=True))),
        )
        model.fusion = torch.nn.ModuleDict({"0": block})
        step, x = DecodeStep(model, cache), torch.randn(3, config.decoder.dim)
        expected = block(x[:, None], keys, cache.sight)[:, 0]
        step._look(x, "0")
    torch.testing.assert_close(x, expected, **CLOSE)


def test_pick_is_the_first_of_the_likeliest() -> None:
    logits = torch.randn(6, 9000)
    logits[0, [5, 8999]] = 7.0
    logits[1, 8500] = 30.0
    logits[2, :4000] = float("-inf")
    logits[3, 100] = float("nan")
    logits[4, 100] = float("inf")
    logits[5] = float("-inf")
    tokens, found = torch.zeros(6, dtype=torch.int64), torch.zeros(6, 2)
    launch.pick(logits, tokens, found)
    assert found[3:, 1].isnan().all()
    assert tokens[:3].tolist() == [5, 8500, int(logits[2].argmax())] and (tokens < 9000).all()
    torch.testing.assert_close(found[:3, 0].long(), tokens[:3])
    torch.testing.assert_close(found[:3, 1], logits[:3].log_softmax(-1).amax(-1), rtol=1e-5, atol=1e-5)
