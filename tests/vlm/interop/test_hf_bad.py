"""What is refused: one line, that names the file and what is wrong in it, before memory is taken."""

from __future__ import annotations

import json
import pickle
import shutil
import struct

import hf_fakes
import pytest
import torch
from hf_fakes import MIXTURE
from safetensors.torch import load_file, save_file

from vlm.interop import load_hf

MODELS = {"llama": {}, "mixtral": {"num_local_experts": 3}, "qwen3_moe": {**MIXTURE, "moe_intermediate_size": 20}, "qwen3": {}}
INF = json.loads("1e999")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for kind, fields in MODELS.items():
        hf_fakes.save(hf_fakes.make(kind, fields), root / kind)
    hf_fakes.save(hf_fakes.make("llama", {}), root / "sharded", max_shard_size="10KB")
    return root


@pytest.fixture
def copy(originals, tmp_path):
    return lambda name: shutil.copytree(originals / name, tmp_path / name)


def refused(directory, *said):
    with pytest.raises(ValueError) as error:
        load_hf(directory)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    assert str(directory) in message
    for part in said:
        assert part in message, message


def edit(directory, file="config.json", **fields):
    path = directory / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}).replace("Infinity", "1e999"))


@pytest.mark.parametrize("name", ["bert", "llama4", None, 7, ["llama"], "x" * 10_000, "../llama"])
def test_unknown_model_type(copy, name):
    directory = copy("llama")
    edit(directory, model_type=name)
    refused(directory, "config.json", "model_type", repr(name)[:50], "llama", "mixtral", "olmoe", "qwen3_moe", "idefics")


ROPE = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ("llama", {"num_hidden_layers": 4000}, "4000 layers"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ("llama", {"hidden_size": -32}, "hidden_size -32"),
        ("llama", {"hidden_size": 2**62}, "hidden_size"),
        ("llama", {"vocab_size": 2**24}, "model.embed_tokens.weight"),
        ("llama", {"hidden_size": "32"}, "hidden_size '32'"),
        ("llama", {"hidden_size": 32.5}, "hidden_size 32.5"),
        ("llama", {"hidden_size": True}, "hidden_size True"),
        ("llama", {"hidden_size": [32]}, "hidden_size [32]"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 2}, "num_heads 5"),
        ("llama", {"head_dim": 7}, "head_dim 7 is odd"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": INF}, "rms_norm_eps"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes'"),
        ("llama", {"hidden_act": "snake"}, "hidden_act 'snake'"),
        ("llama", {"attention_multiplier": 0.5}, "attention_multiplier 0.5"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp 2"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}"),
        ("llama", {"rope_parameters": "linear"}, "rope_parameters 'linear'"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "longrope"}}, "rope_parameters.rope_type 'longrope'"),
        ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_scaling.rope_type 'su'"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": ["linear"]}}, "rope_type ['linear']"),
        ("llama", {"rope_parameters": {**ROPE, "factor": INF}}, "rope_parameters.factor inf"),
        ("llama", {"rope_parameters": {**ROPE, "factor": 0}}, "rope_parameters.factor 0"),
        ("llama", {"rope_parameters": {**ROPE, "factor": None}}, "factor is missing"),
        ("llama", {"rope_parameters": {**ROPE, "rope_theta": -1.0}}, "rope_theta -1.0"),
        ("llama", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}, "partial_rotary_factor 0.25"),
        ("llama", {"rope_parameters": {**ROPE, "temperature": 3}}, "rope_parameters.temperature 3"),
        ("llama", {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}}, "rope_parameters.full_attention"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "llama3"}}, "low_freq_factor is missing"),
        ("llama", {"rope_parameters": {**hf_fakes.LLAMA3, "low_freq_factor": 9.0}}, "low_freq_factor 9.0"),
        (
            "llama",
            {"rope_parameters": {**hf_fakes.YARN, "original_max_position_embeddings": 0}},
            "original_max_position_embeddings",
        ),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types has 1"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention", "chunked_attention"]}, "layer_types.2"),
        ("qwen3", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]}, "sliding_attention"),
        ("mixtral", {"num_local_experts": 10**9}, "num_experts 1000000000"),
        ("mixtral", {"num_local_experts": 60_000}, "60000 experts"),
        ("mixtral", {"num_local_experts": 4}, "missing (model.layers.0.block_sparse_moe.experts.3."),
        ("mixtral", {"num_experts_per_tok": 4}, "top_k 4"),
        ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1}, "left over"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "missing (model.layers.1.mlp."),
        ("qwen3_moe", {"moe_intermediate_size": 21}, "of another shape"),
        ("qwen3_moe", {"num_experts": 5, "num_local_experts": 5, "n_shared_experts": 1}, "n_shared_experts 1"),
    ],
)
def test_a_value_that_cannot_be(copy, name, fields, said):
    directory = copy(name)
    edit(directory, **fields)
    refused(directory, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "nested"),
        ('["llama"]', "list"),
        ('{"model_type": "llama", "rms_norm_eps": NaN}', "NaN"),
        ('{"model_type": "llama", "rope_theta": Infinity}', "Infinity"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (" " * (5 << 20), "larger than"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_config_that_is_none(copy, text, said):
    directory = copy("llama")
    (directory / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(directory, "config.json", said)


def test_no_config_and_no_directory(copy, tmp_path):
    directory = copy("llama")
    (directory / "config.json").unlink()
    refused(directory, "config.json")
    refused(tmp_path / "nowhere", "config.json")


def change_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("model.norm.weight"), "1 missing (model.norm.weight)"),
        (lambda w: w.update(extra=torch.ones(1)), "1 left over (extra)"),
        (lambda w: w.update({"model.norm.weight": torch.ones(31)}), "1 of another shape (model.norm.weight (31,) for (32,))"),
        (lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "'model.norm.weight' is I8"),
        (lambda w: w.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}), "q_norm"),
        (lambda w: w.update({"lm_head.weight": torch.ones(5, 32)}), "lm_head.weight"),
        (dict.clear, "0 tensors"),
    ],
)
def test_weights_that_do_not_fit(copy, change, said):
    directory = copy("llama")
    change_weights(directory, change)
    refused(directory, "model.safetensors", said)


def test_a_tied_models_head_of_another_shape(copy):
    directory = copy("llama")
    edit(directory, tie_word_embeddings=True)
    change_weights(directory, lambda w: w.update({"lm_head.weight": torch.ones(5, 32)}))
    refused(directory, "left over (lm_head.weight)")


def header(path, change):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(change(json.loads(data[8 : 8 + size]))).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def huge(head):
    return {**head, "model.norm.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}


def odd(shape):
    return lambda head: {**head, "odd": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0" * 10),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:]),
        lambda path: path.write_bytes(struct.pack("<Q", 10**9) + path.read_bytes()[8:]),
        lambda path: header(path, huge),
        lambda path: header(path, odd([0, 2**63])),
        lambda path: header(path, odd([0, 2**64 - 1])),
        lambda path: path.write_bytes(pickle.dumps({"model.norm.weight": 1})),
    ],
)
def test_a_damaged_file(copy, damage):
    directory = copy("llama")
    damage(directory / "model.safetensors")
    refused(directory, "model.safetensors")


def test_a_missing_shard(copy):
    directory = copy("sharded")
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.unlink()
    refused(directory, "model.safetensors.index.json", shard.name, "not there")


@pytest.mark.parametrize(
    "file",
    [
        "../llama/model.safetensors",
        "/etc/passwd",
        "sub/../model.safetensors",
        "..",
        "",
        None,
        3,
        "model.bin",
        "a\0.safetensors",
    ],
)
def test_an_index_that_names_a_file_elsewhere(copy, originals, file):
    directory = copy("sharded")
    copy("llama")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = file
    edit(directory, "model.safetensors.index.json", **index)
    refused(directory, "model.safetensors.index.json", repr(file))


@pytest.mark.parametrize(
    ("index", "said"),
    [({}, "weight_map"), ({"weight_map": ["x"]}, "weight_map"), ({"weight_map": {}}, "0 tensors"), ([], "list")],
)
def test_an_index_that_is_none(copy, index, said):
    directory = copy("sharded")
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(directory, "model.safetensors.index.json", said)


def test_an_index_that_names_the_wrong_shard(copy):
    directory = copy("sharded")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    names = sorted(index["weight_map"].values())
    index["weight_map"]["model.norm.weight"] = next(n for n in names if n != index["weight_map"]["model.norm.weight"])
    edit(directory, "model.safetensors.index.json", **index)
    refused(directory, "model.norm.weight")


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/should-not-exist-of-a-pickle", "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle(copy, name):
    directory = copy("llama")
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(Bomb()))
    refused(directory, name, "pickle")


def test_no_weights_at_all(copy):
    directory = copy("llama")
    (directory / "model.safetensors").unlink()
    refused(directory, "neither")
