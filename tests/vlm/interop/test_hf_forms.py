"""The forms in which the same model is published: names of tensors, keys of config.json, what is left out, precision."""

from __future__ import annotations

import json

import hf_fakes
import pytest
import torch
from hf_fakes import MIXTURE, SMALL, rows, transformers
from safetensors.torch import load_file, save_file

from vlm import DecoderConfig, TextDecoder
from vlm.config import RopeScaling
from vlm.interop import export, load_hf
from vlm.interop.hf_config import read_config
from vlm.interop.hf_families import FAMILIES

QWEN_MOE = {**MIXTURE, "moe_intermediate_size": 20, "mlp_only_layers": [2]}
MIXTURES = [("mixtral", {"num_local_experts": 5}), ("olmoe", MIXTURE), ("qwen3_moe", QWEN_MOE)]


def rewrite_config(directory, change):
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def rewrite_weights(directory, change):
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def same(model, other):
    assert model.config == other.config
    theirs = other.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_left_out_has_transformers_value(kind):
    theirs = transformers.AutoConfig.for_model(kind)
    for key, value in FAMILIES[kind].values.items():
        expected = getattr(theirs, key, None)
        if key in ("num_key_value_heads", "head_dim", "layer_types", "mlp_only_layers") and value is None:
            continue  # worked out from the others, by them as by us
        if key == "sliding_window" and not getattr(theirs, "use_sliding_window", True):
            continue  # theirs is forgotten when not in use
        assert value == expected, key
    assert FAMILIES[kind].rope_theta == theirs.rope_parameters["rope_theta"]
    assert FAMILIES[kind].architecture == transformers.AutoModelForCausalLM._model_mapping[type(theirs)].__name__


@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize(("kind", "fields"), MIXTURES)
def test_stacked_experts_are_numbered_ones(kind, fields, lone, tmp_path):
    count = {"num_local_experts" if kind == "mixtral" else "num_experts": 1, "num_experts_per_tok": 1} if lone else {}
    peer = hf_fakes.make(kind, {**fields, **count})
    hf_fakes.save(peer, tmp_path / "numbered")
    hf_fakes.save(peer, tmp_path / "stacked", save_original_format=False)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(tmp_path / "stacked" / "model.safetensors"))
    same(load_hf(tmp_path / "stacked"), load_hf(tmp_path / "numbered"))


def test_we_write_the_published_names(tmp_path):
    peer = hf_fakes.make("mixtral", {"num_local_experts": 3})
    hf_fakes.save(peer, tmp_path / "theirs")
    export(load_hf(tmp_path / "theirs"), tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / d / "model.safetensors") for d in ("theirs", "ours"))
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in ours
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_model_without_its_head_is_read_when_tied(tmp_path):
    """As a `LlamaModel` is saved: no prefix."""
    peer = hf_fakes.make("llama", {"tie_word_embeddings": True})
    hf_fakes.save(peer, tmp_path / "whole")
    hf_fakes.save(peer.model, tmp_path / "base")
    same(load_hf(tmp_path / "base"), load_hf(tmp_path / "whole"))


def test_a_tied_file_may_hold_the_table_twice_and_tables_of_positions(tmp_path):
    hf_fakes.save(hf_fakes.make("llama", {"tie_word_embeddings": True}), tmp_path)
    plain = load_hf(tmp_path)
    rewrite_weights(
        tmp_path,
        lambda w: (
            w
            | {"lm_head.weight": w["model.embed_tokens.weight"].clone()}
            | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
        ),
    )
    same(load_hf(tmp_path), plain)


def test_a_tied_file_with_another_head_is_not_tied(tmp_path):
    """The config is wrong then, and transformers goes by the file."""
    hf_fakes.save(hf_fakes.make("llama", {}), tmp_path)
    rewrite_config(tmp_path, lambda raw: raw.update(tie_word_embeddings=True))
    model, peer = load_hf(tmp_path), hf_fakes.read(tmp_path)
    assert not model.config.tie_embeddings
    row = rows((9,))[0][None]
    with torch.no_grad():
        torch.testing.assert_close(model(row), peer(row).logits, atol=1e-4, rtol=0)


def old(raw):
    """As files were written before transformers 5."""
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    raw["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    raw["torch_dtype"] = raw.pop("dtype")
    if raw["head_dim"] == raw["hidden_size"] // raw["num_attention_heads"]:
        raw["head_dim"] = None
    if raw["num_key_value_heads"] == raw["num_attention_heads"]:
        del raw["num_key_value_heads"]


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "default"])
def test_old_config_files(kind, tmp_path):
    scaling = {} if kind == "default" else {"rope_scaling": {"rope_type": kind, "factor": 2.0}}
    hf_fakes.save(hf_fakes.make("llama", {"num_key_value_heads": 4, "rope_theta": 300.0, **scaling}), tmp_path)
    new = load_hf(tmp_path)
    rewrite_config(tmp_path, old)
    same(load_hf(tmp_path), new)
    assert new.config.rope_theta == 300.0
    assert (new.config.rope_scaling is None) == (kind == "default")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_moe"])
def test_a_window_that_is_not_in_use(kind):
    raw = {"sliding_window": 4, "max_window_layers": 1}
    assert read_config({**raw, "use_sliding_window": False}, FAMILIES[kind]).sliding_window is None
    assert read_config(raw, FAMILIES[kind]).sliding_window is None
    assert read_config({**raw, "use_sliding_window": True}, FAMILIES[kind]).sliding_window == 4


@pytest.mark.parametrize("kind", ["llama", "olmoe"])
def test_families_without_windows_have_none_whatever_the_file_says(kind):
    assert read_config({"sliding_window": 4, "use_sliding_window": True}, FAMILIES[kind]).sliding_window is None


def test_the_original_length_beside_the_mapping_goes_first():
    """As transformers reads it; written by it, the two are always the same."""
    raw = {"rope_scaling": hf_fakes.YARN, "original_max_position_embeddings": 5}
    assert read_config(raw, FAMILIES["llama"]).rope_scaling.original_length == 5


@pytest.mark.parametrize(
    ("dtype", "expected"), [(None, torch.bfloat16), (torch.float16, torch.float16), ("default", torch.float32)]
)
def test_precision_read(dtype, expected, tmp_path):
    hf_fakes.save(hf_fakes.make("olmoe", MIXTURE).bfloat16(), tmp_path)
    model = load_hf(tmp_path) if dtype == "default" else load_hf(tmp_path, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {expected}
    assert not model.training


def test_precision_written_is_the_models(tmp_path):
    peer = hf_fakes.make("qwen3", {"head_dim": 10}).bfloat16()
    export(load_hf(hf_fakes.save(peer, tmp_path / "theirs"), dtype=None), tmp_path / "ours")
    back = hf_fakes.read(tmp_path / "ours")
    assert back.dtype == torch.bfloat16
    assert all(torch.equal(tensor, peer.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_on_meta_there_are_shapes_alone(tmp_path):
    hf_fakes.save(hf_fakes.make("mixtral", {"num_local_experts": 3}), tmp_path)
    model, real = load_hf(tmp_path, device="meta"), load_hf(tmp_path)
    assert all(p.is_meta for p in model.parameters())
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


def test_nothing_of_the_model_hangs_on_the_file(tmp_path):
    hf_fakes.save(hf_fakes.make("llama", {}), tmp_path)
    model = load_hf(tmp_path, dtype=None)
    row = rows((9,))[0][None]
    with torch.no_grad():
        before = model(row)
        (tmp_path / "model.safetensors").write_bytes(b"")
        assert torch.equal(model(row), before)


def decoder(**fields):
    shape = {"vocab_size": 31, "dim": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "num_experts": 1, "top_k": 1}
    return TextDecoder(DecoderConfig(**{**shape, "expert_dim": 12, **fields}))


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({}, "llama"),
        ({"dim": 20, "num_heads": 3, "num_kv_heads": 3, "head_dim": 8}, "mistral"),  # transformers' Llama wants dim a multiple
        ({"sliding_window": 3}, "mistral"),
        ({"query_key_norm": "head"}, "qwen3"),
        ({"query_key_norm": "head", "sliding_window": 3, "full_attention_layers": (0,)}, "qwen3"),
        ({"num_experts": 3}, "mixtral"),
        ({"num_experts": 3, "query_key_norm": "width"}, "olmoe"),
        ({"num_experts": 3, "query_key_norm": "head", "dense_layers": (0,), "dense_dim": 16}, "qwen3_moe"),
        ({"num_experts": 3, "dense_layers": (0, 1)}, "llama"),
    ],
)
def test_export_finds_the_family(fields, family, tmp_path):
    model = decoder(**fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    export(model, tmp_path)
    peer = hf_fakes.read(tmp_path)
    assert peer.config.model_type == family
    row = rows((9,))[0][None] % 31
    with torch.no_grad():
        torch.testing.assert_close(model(row), peer(row).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "family", "said"),
    [
        ({"shifted_kv_heads": 1}, None, "shifted_kv_heads 1"),
        ({"num_experts": 3, "router": "sigmoid"}, None, "router sigmoid"),
        ({"num_experts": 3, "shared_dim": 8}, None, "shared_dim 8"),
        ({"num_experts": 3, "routed_scale": 2.5}, None, "routed_scale 2.5"),
        ({"num_experts": 3, "balance_bias_rate": 0.01}, None, "balance_bias_rate 0.01"),
        ({"num_experts": 3, "normalize_top_k": False}, "mixtral", "normalize_top_k False"),
        ({"num_experts": 3, "ffn_bias": True}, None, "ffn_bias True"),
        ({"num_experts": 3}, "llama", "num_experts 3"),
        ({}, "olmoe", "query_key_norm none"),
        ({"query_key_norm": "head"}, "llama", "query_key_norm head"),
        ({"sliding_window": 3}, "llama", "sliding_window 3"),
        ({"sliding_window": 3, "full_attention_layers": (0,)}, "mistral", "full_attention_layers (0,)"),
        ({"attention_bias": True}, "mistral", "attention_bias True"),
        ({}, "qwen2", "attention_bias False"),
        ({}, "gpt2", "gpt2"),
    ],
)
def test_export_refuses_what_the_family_cannot_say(fields, family, said, tmp_path):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")) as error:
        export(decoder(**fields), tmp_path / "out", family)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_max_position_embeddings_is_what_scaling_or_the_caller_says(tmp_path):
    assert SMALL["max_position_embeddings"] == 64
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    export(
        load_hf(hf_fakes.save(hf_fakes.make("llama", {"rope_scaling": yarn}), tmp_path / "a")), tmp_path / "b", context_length=7
    )
    assert json.loads((tmp_path / "b" / "config.json").read_text())["max_position_embeddings"] == 64
    export(decoder(), tmp_path / "c", context_length=77)
    assert json.loads((tmp_path / "c" / "config.json").read_text())["max_position_embeddings"] == 77
    export(decoder(rope_scaling=RopeScaling("llama3", 4.0, 100)), tmp_path / "d")
    assert json.loads((tmp_path / "d" / "config.json").read_text())["max_position_embeddings"] == 400


@pytest.mark.parametrize(
    ("kind", "one"), [("mixtral", "num_local_experts"), ("olmoe", "num_experts"), ("qwen3_moe", "num_experts")]
)
def test_a_mixture_of_one_expert_goes_both_ways(tmp_path, kind, one):
    fields = {**(MIXTURE if kind != "mixtral" else {}), one: 1, "num_experts_per_tok": 1}
    theirs = hf_fakes.make(kind, fields)
    ours = load_hf(hf_fakes.save(theirs, tmp_path / "a"))
    export(ours, tmp_path / "b", kind)
    tokens = rows()
    for a, b in zip(hf_fakes.logits(theirs, tokens), hf_fakes.logits(hf_fakes.read(tmp_path / "b"), tokens), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_mistral_whose_layers_differ_is_refused(tmp_path):
    directory = hf_fakes.save(hf_fakes.make("mistral", {"sliding_window": 4}), tmp_path)
    rewrite_config(directory, lambda raw: raw.update(layer_types=["full_attention", *["sliding_attention"] * 2]))
    with pytest.raises(ValueError, match="layer_types of a mistral"):
        load_hf(directory)


def test_the_context_length_comes_back(tmp_path):
    ours = load_hf(hf_fakes.save(hf_fakes.make("llama", {"max_position_embeddings": 777}), tmp_path / "a"))
    export(ours, tmp_path / "b")
    assert (
        ours.config.context_length == json.loads((tmp_path / "b" / "config.json").read_text())["max_position_embeddings"] == 777
    )
