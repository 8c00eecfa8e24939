"""GGUF files: what is read equals what was written, and what is not supported is named."""

from __future__ import annotations

import dataclasses
import re
import sys
import time

import numpy as np
import pytest
import torch

from vlm import DecoderConfig
from vlm.config import RopeScaling
from vlm.interop.gguf import load_gguf
from vlm.interop.gguf_file import TYPES, GGUFFile
from vlm.rope import _STRETCH

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
from gguf_fakes import DENSE, KIND, SCALES, decoder, fields, packed, tensors, turned, write, write_model  # noqa: E402


def change(**options) -> DecoderConfig:
    return dataclasses.replace(DENSE, **options)


CONFIGS = {
    "dense": DENSE,
    "untied": change(tie_embeddings=False, norm_eps=1e-6, rope_theta=500_000.0),
    "biases": change(attention_bias=True, ffn_bias=True, num_kv_heads=4),
    "no head_dim": change(head_dim=None, num_kv_heads=1),
    "mixtral": change(num_experts=5, top_k=3, tie_embeddings=False),
}


@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "numbered"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_written_model_is_read_as_it_was(tmp_path, config, stacked):
    model = decoder(config)
    read = load_gguf(write_model(tmp_path / "m.gguf", model, stacked))
    tokens = torch.randint(config.vocab_size, (2, 9))
    assert dataclasses.replace(read.config, head_dim=config.head_dim) == config and not read.training
    assert torch.equal(read(tokens), model(tokens))
    assert all(p.requires_grad for p in read.parameters())


def test_biases_of_queries_keys_and_values_alone(tmp_path):
    model = decoder(CONFIGS["biases"])
    weights = {name: t for name, t in tensors(model).items() if not name.endswith("attn_output.bias")}
    read = load_gguf(write(tmp_path / "m.gguf", weights, fields(model.config)))
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.out.bias.zero_()
    tokens = torch.randint(40, (1, 9))
    assert torch.equal(read(tokens), model(tokens))


def test_logits_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, head_dim=10, rope_theta=5000.0, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj":
             "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    weights = {}
    for name, tensor in theirs.state_dict().items():
        head = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name):
            heads = {"self_attn.q_proj": 6, "self_attn.k_proj": 2}.get(match[2])
            weights[f"blk.{match[1]}.{names[match[2]]}.weight"] = turned(tensor, heads) if heads else tensor
        else:
            weights[head.get(name, "output.weight")] = tensor
    config = DecoderConfig(40, 48, 2, 6, 2, 10, rope_theta=5000.0, num_experts=1, top_k=1, expert_dim=56, norm_eps=1e-6)
    model = load_gguf(write(tmp_path / "m.gguf", weights, fields(config)))
    tokens = torch.randint(40, (2, 17))
    assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path, dtype):
    model = decoder().to(dtype)
    path = write_model(tmp_path / "m.gguf", model)
    for asked, given_ in ((torch.float32, torch.float32), (None, dtype)):
        read = load_gguf(path, dtype=asked)
        for name, tensor in read.state_dict().items():
            assert tensor.dtype == given_ and torch.equal(tensor, model.state_dict()[name].to(given_)), name


@pytest.mark.parametrize("kind", SCALES)
def test_blocks_are_unpacked_as_by_the_package(tmp_path, kind):
    blocks = packed(KIND[kind], 6, 512)
    path = write(tmp_path / "m.gguf", {"t": (blocks, KIND[kind])}, {})
    file = GGUFFile(path)
    assert file.tensors["t"].shape == (6, 512) and file.tensors["t"].kind == kind
    values = file.read("t")
    assert np.isfinite(values).all() and len(np.unique(values)) > 10
    np.testing.assert_array_equal(values, gguf.dequantize(blocks, KIND[kind]))


def test_blocks_by_hand(tmp_path):
    """One block of each of two types, written out: Q4_0 is d·(q - 8); Q4_K is d·scale·q - dmin·min in runs of 32."""
    d, dmin = np.float16(0.5), np.float16(0.25)
    q = np.arange(32) % 16
    q40 = d.tobytes() + bytes(int(q[i]) | int(q[i + 16]) << 4 for i in range(16))
    scales, mins = np.arange(1, 9), np.arange(8, 0, -1)  # below 16: the high bits of the packed form are 0
    twelve = bytes([*scales[:4], *mins[:4], *(int(s) | int(m) << 4 for s, m in zip(scales[4:], mins[4:], strict=True))])
    k = np.arange(256) * 7 % 16
    runs = k.reshape(4, 2, 32)
    q4k = d.tobytes() + dmin.tobytes() + twelve + (runs[:, 0] | runs[:, 1] << 4).astype(np.uint8).tobytes()
    given_ = {"a": (np.frombuffer(q40, np.uint8)[None], KIND.Q4_0), "b": (np.frombuffer(q4k, np.uint8)[None], KIND.Q4_K)}
    file = GGUFFile(write(tmp_path / "m.gguf", given_, {}))
    np.testing.assert_array_equal(file.read("a")[0], 0.5 * (q - 8))
    wanted = 0.5 * np.repeat(scales, 32) * k - 0.25 * np.repeat(mins, 32)
    np.testing.assert_array_equal(file.read("b")[0], wanted)


def test_a_quantised_model(tmp_path):
    """Rows of queries and keys are put in order after unpacking, whatever the type."""
    model = decoder(change(dim=256, expert_dim=256, head_dim=64))
    weights, kinds = tensors(model), iter(TYPES[3:] * 2)
    for name in [n for n, t in weights.items() if t.ndim == 2]:
        kind = KIND[next(kinds)]
        blocks = packed(kind, *weights[name].shape, seed=len(name))
        weights[name] = (blocks, kind)
        plain = torch.from_numpy(gguf.dequantize(blocks, kind))
        tensors(model)[name].copy_(plain)
        weights[name + "?"] = plain
    exact = {n.rstrip("?"): weights.pop(n) for n in list(weights) if n.endswith("?")}
    packed_model = load_gguf(write(tmp_path / "q.gguf", weights, fields(model.config)))
    plain_model = load_gguf(write(tmp_path / "f.gguf", weights | exact, fields(model.config)))
    for name, tensor in packed_model.state_dict().items():
        assert torch.equal(tensor, plain_model.state_dict()[name]), name


SCALINGS = {
    "llama3": RopeScaling("llama3", 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0),
    "other borders": RopeScaling("llama3", 8.0, 4096, low_freq_factor=0.5, high_freq_factor=3.0),
    "short": RopeScaling("llama3", 4.0, 64, low_freq_factor=1.0, high_freq_factor=4.0),
}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_llama3_scaling_is_found_again(tmp_path, scaling, theta):
    config = change(head_dim=64, rope_theta=theta, rope_scaling=scaling)
    frequency = 1.0 / theta ** (torch.arange(0, 64, 2) / 64)
    divisor = frequency / _STRETCH["llama3"](frequency, config, scaling)
    model = decoder(config)
    read = load_gguf(write(tmp_path / "m.gguf", tensors(model) | {"rope_freqs.weight": divisor}, fields(config)))
    assert read.config.rope_scaling.kind == "llama3" and read.config.rope_scaling.factor == pytest.approx(scaling.factor)
    tokens = torch.randint(40, (1, 100))
    assert (read(tokens) - model(tokens)).abs().max() < 1e-5


def test_scalings_by_name(tmp_path):
    model = decoder()
    read = load_gguf(write_model(tmp_path / "a", model, llama__rope__scaling__type="linear", llama__rope__scaling__factor=2.0))
    assert read.config.rope_scaling == RopeScaling("linear", 2.0)
    header = {"type": "yarn", "factor": 4.0, "original_context_length": 32, "finetuned": True}
    header = {f"llama.rope.scaling.{key}": value for key, value in header.items()}
    read = load_gguf(write(tmp_path / "b", tensors(model), fields(DENSE) | header))
    scaling = read.config.rope_scaling
    assert (scaling.kind, scaling.factor, scaling.original_length) == ("yarn", 4.0, 32)
    assert scaling.attention_factor == pytest.approx(0.1 * np.log(4) + 1)
    assert load_gguf(write_model(tmp_path / "c", model, llama__rope__scaling__type="none")).config.rope_scaling is None
    unsaid = fields(DENSE) | {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    assert load_gguf(write(tmp_path / "e", tensors(model), unsaid)).config.rope_scaling.original_length == 128
    ones = tensors(model) | {"rope_freqs.weight": torch.ones(6)}
    assert load_gguf(write(tmp_path / "d", ones, fields(DENSE))).config.rope_scaling is None


REFUSED = {
    "llama.attention.head_count": (0, "head_count"),
    "llama.embedding_length": (10**9, "does not fit"),
    "llama.block_count": (4000, "block_count"),
    "llama.rope.dimension_count": (6, "dimension_count"),
    "llama.rope.scaling.type": ("longrope", "longrope"),
    "llama.logit_scale": (2.0, "logit_scale"),
    "llama.attention.layer_norm_rms_epsilon": ("x", "layer_norm_rms_epsilon"),
    "llama.expert_count": (4_000_000_000, r"does not fit|has room"),
    "llama.attention.head_count_kv": (3, "multiple"),
    "general.alignment": (0, "alignment"),
    "split.count": (3, "--merge"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_header_that_is_not_supported_is_named(tmp_path, key):
    value, words = REFUSED[key]
    header = fields(DENSE) | ({"llama.expert_used_count": 2} if "expert" in key else {})
    with pytest.raises(ValueError, match=words) as error:
        load_gguf(write(tmp_path / "m.gguf", tensors(decoder()), header | {key: value}))
    assert "m.gguf" in str(error.value) and "\n" not in str(error.value)


def test_a_number_of_experts_that_is_not_there(tmp_path):
    """Stacked or numbered, a claim of billions costs nothing."""
    model = decoder(CONFIGS["mixtral"])
    header = fields(model.config) | {"llama.expert_count": 4_000_000_000}
    for stacked in (True, False):
        path = write(tmp_path / "m.gguf", tensors(model, stacked), header)
        started = time.process_time()
        with pytest.raises(ValueError, match=r"does not fit the model|has room"):
            load_gguf(path)
        assert time.process_time() - started < 1


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = tensors(decoder())

    def refused(words, change):
        with pytest.raises(ValueError, match=words):
            load_gguf(write(tmp_path / "m.gguf", change, fields(DENSE)))

    refused("1 missing .layers.1.attention.key.weight", {k: v for k, v in weights.items() if k != "blk.1.attn_k.weight"})
    refused("1 left over .blk.0.odd", weights | {"blk.0.odd": torch.ones(3)})
    refused("of another shape .layers.0.attention.out.weight", weights | {"blk.0.attn_output.weight": torch.ones(3, 4)})
    refused("blk.0.attn_q.weight of shape .7, 64. does not fit", weights | {"blk.0.attn_q.weight": torch.ones(7, 64)})
    refused("rope_freqs.weight is not", weights | {"rope_freqs.weight": torch.tensor([1, 9, 1, 9, 1, 9.0])})


def test_other_architectures_and_types_are_named(tmp_path):
    weights, header = tensors(decoder()), fields(DENSE)
    with pytest.raises(ValueError, match=r"'falcon'.*llama"):
        load_gguf(write(tmp_path / "m.gguf", weights, header, architecture="falcon"))
    odd = (np.zeros((64, 4 * 17), np.uint8), KIND.MXFP4)
    with pytest.raises(ValueError, match="MXFP4; read are F32"):
        load_gguf(write(tmp_path / "n.gguf", weights | {"blk.0.attn_v.weight": odd}, header))
    with pytest.raises(ValueError, match="big-endian"):
        load_gguf(write(tmp_path / "o.gguf", weights, header, endian=gguf.GGUFEndian.BIG))


def test_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install"):
        load_gguf(tmp_path / "m.gguf")
