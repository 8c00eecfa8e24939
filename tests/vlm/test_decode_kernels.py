"""Each kernel, interpreted on the CPU, against the modules it stands for: odd sizes, ragged positions, every option."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from vlm_fakes import CONFIG, change, randomize

from vlm.activation import Act
from vlm.cache import Cache
from vlm.decoder import DecoderLayer, TextDecoder
from vlm.fusion import GatedCrossAttention
from vlm.sight import Rows, Sight

pytest.importorskip("triton", "3.9", reason="with NumPy 2.4 an older interpreter cannot loop up to a tensor")
from vlm.decode import DecodeStep, feed_forward, rotary_rows
from vlm.kernels import launch
from vlm.kernels.operands import Choice, Matrix, Norm

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def stepper(model: TextDecoder, cache: Cache) -> DecodeStep:
    return DecodeStep(model, cache, rotary_rows(cache.layers[0].keys.shape[2], model.config, torch.device("cpu")))


@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
def test_expand_is_norm_and_linear(rows: int, kind: str) -> None:
    norm = {"rms": torch.nn.RMSNorm(37, eps=1e-5), "layer": torch.nn.LayerNorm(37), "none": torch.nn.Identity()}[kind]
    linear = torch.nn.Linear(37, 21)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(rows, 37)
    found = launch.expand(x, Norm.of(norm), Matrix.linear(linear.weight, linear.bias))[:, 0]
    torch.testing.assert_close(found, linear(norm(x)), **CLOSE)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "relu"])
def test_contract_activates_what_it_takes(act: str, gated: bool, rows: int) -> None:
    linear, x = torch.nn.Linear(20, 19, bias=False), torch.randn(rows, 19)
    h = torch.randn(rows, 1, 40 if gated else 20)
    expected = x + linear(Act(act, gated=gated)(h[:, 0]))
    launch.contract(h, Matrix.linear(linear.weight), x, act)
    torch.testing.assert_close(x, expected, **CLOSE)


@pytest.mark.parametrize("rows", [1, 5])
def test_contract_adds_where_a_row_sees(rows: int) -> None:
    linear, h, x = torch.nn.Linear(40, 18, bias=False), torch.randn(rows, 1, 40), torch.randn(rows, 18)
    gate = torch.cat((torch.randn(9), 1e-3 * torch.randn(9)))
    sees = torch.arange(rows) % 2 == 0
    expected = torch.where(sees[:, None], x + gate.tanh() * linear(h[:, 0]), x)
    launch.contract(h, Matrix.linear(linear.weight), x, gate=gate, sees=sees)
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


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("routed", [False, True])
def test_many_features_in_are_added_in_parts(rows: int, routed: bool) -> None:
    options = {"num_experts": 3, "top_k": 2} if routed else {"num_experts": 1, "top_k": 1}
    layer = DecoderLayer(dataclasses.replace(CONFIG.decoder, dim=24, head_dim=8, expert_dim=1100, ffn_bias=True, **options), 0)
    randomize(layer)
    experts = layer.moe.experts
    matrix, h, x = (
        Matrix.experts(experts.down, experts.down_bias),
        torch.randn(rows, 2 if routed else 1, 1100),
        torch.randn(rows, 24),
    )
    ids = torch.stack([torch.randperm(3)[:2] for _ in range(rows)])
    choice = Choice(ids.int(), torch.rand(rows, 2), 3) if routed else None
    assert launch._parts(1, launch._blocks("contract", x, matrix, choice)[1], matrix)[0] > 1
    down, bias = experts.down, experts.down_bias
    with torch.no_grad():
        if routed:
            each = torch.einsum("bjk,bjkn->bjn", h, down[ids]) + bias[ids]
            expected = x + (each * choice.weights[..., None]).sum(dim=1)
        else:
            expected = x + h[:, 0] @ down[0] + bias[0]
        launch.contract(h, matrix, x, choice=choice)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


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
    positions, step = torch.tensor([0, 6, 70]), stepper(model, caches[1])
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
        torch.testing.assert_close(stepper(model, ours)(tokens, positions), expected, **CLOSE)


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
        step, x = stepper(model, cache), torch.randn(3, config.decoder.dim)
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


@pytest.mark.parametrize("rows", [1, 3])
def test_layer_norm_of_rows_far_from_zero(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """E[x²] - E[x]² would have nothing left of the variance."""
    monkeypatch.setattr(launch, "TILES", dict.fromkeys(launch.TILES, launch.Tile(32, 32, 1, 4)))
    norm, linear = torch.nn.LayerNorm(37), torch.nn.Linear(37, 21, bias=False)
    x = 3000 + torch.randn(rows, 37)
    found = launch.expand(x, Norm.of(norm), Matrix.linear(linear.weight))[:, 0]
    torch.testing.assert_close(found, linear(norm(x)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_matrix_may_be_larger_than_32_bits_count(rows: int) -> None:
    """Three rows at its beginning, middle and end; the pages between are never touched."""
    memory = torch.empty(2**31 + 16, dtype=torch.float16)
    weight, x = memory.as_strided((3, 16), (2**30, 1)), torch.randn(rows, 16, dtype=torch.float16)
    weight.normal_()
    found = launch.expand(x, Norm.none(), Matrix.linear(weight))[:, 0]
    torch.testing.assert_close(found, x @ weight.t(), rtol=1e-2, atol=1e-2)


def test_launches_take_no_more_shared_memory_than_there_is() -> None:
    tried = []

    class Kernel:
        def __getitem__(self, grid):
            def launched(x, **constants):
                tried.append(tuple(constants[name] for name in ("STAGES", "BLOCK_K", "BLOCK_N")))
                if constants["STAGES"] * constants["BLOCK_K"] > 64:
                    raise launch.triton.OutOfResources(2, 1, "shared memory")

            return launched

    launch.run(Kernel(), (1,), torch.zeros(1), STAGES=3, BLOCK_K=128, BLOCK_N=32)
    assert tried == [(3, 128, 32), (1, 128, 32), (1, 64, 32)]


def test_what_fits_nowhere_is_said() -> None:
    class Kernel:
        def __getitem__(self, grid):
            raise launch.triton.OutOfResources(2, 1, "shared memory")

    with pytest.raises(launch.triton.OutOfResources):
        launch.run(Kernel(), (1,), torch.zeros(1), BLOCK_K=128)
