"""Model directories that are damaged, and hostile ones: one line each."""

import hashlib
import json
import shutil

import pytest
import torch
from load_fakes import edit, refused, sign
from safetensors.torch import load_file, save_file

import vlm
from vlm.load import CONFIG, INDEX, TOKENIZER, WEIGHTS


@pytest.mark.parametrize("name", [WEIGHTS, TOKENIZER])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_files_are_named(directory, name, damage):
    path = directory / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[: len(data) - 7])
    if damage == "gone":
        path.unlink()
    refused(directory, name)


@pytest.fixture
def sharded(saved, tmp_path, processor):
    vlm.save(tmp_path / "model", saved[1], processor, max_shard_bytes=20_000)
    return tmp_path / "model"


def reindex(directory, change):
    """Change the index's weight_map, its digest and those of the files there corrected."""
    index = json.loads((directory / INDEX).read_text())
    change(index["weight_map"])
    (directory / INDEX).write_text(json.dumps(index))
    config = json.loads((directory / CONFIG).read_text())
    config["sha256"] |= {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in config["sha256"] if "/" not in n}
    sign(directory, config)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_shards_are_named(sharded, damage):
    path = sorted(sharded.glob("model-*.safetensors"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= damage == "flip"
    path.write_bytes(data[: len(data) - 7 * (damage == "cut")])
    if damage == "gone":
        path.unlink()
    refused(sharded, path.name, "missing or damaged")


@pytest.mark.parametrize("file", ["../other.safetensors", "/tmp/other.safetensors", "other.bin", "none.safetensors", 3])
def test_an_index_that_points_elsewhere(sharded, file):
    shutil.copy(sorted(sharded.glob("model-*"))[0], sharded.parent / "other.safetensors")
    reindex(sharded, lambda places: places.update({"decoder.norm.weight": file}))
    refused(sharded, INDEX, "names the shard")


def test_a_shard_that_nobody_hashed(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    shutil.copy(sharded / places["decoder.norm.weight"], sharded / "more.safetensors")
    reindex(sharded, lambda places: places.update({"decoder.norm.weight": "more.safetensors"}))
    refused(sharded, "more.safetensors", "is not among the files whose SHA-256")


def test_an_index_that_names_the_wrong_shard_or_forgets_a_tensor(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(file for file in places.values() if file != places["decoder.norm.weight"])
    reindex(sharded, lambda places: places.update({"decoder.norm.weight": other}))
    refused(sharded, other, "decoder.norm.weight")
    reindex(sharded, lambda places: places.pop("decoder.norm.weight"))
    refused(sharded, "1 missing (decoder.norm.weight)")


def test_a_header_that_lies_about_its_size(directory):
    data = bytearray((directory / WEIGHTS).read_bytes())
    for size in (2**63, 2**40, len(data), 2):
        (directory / WEIGHTS).write_bytes(size.to_bytes(8, "little") + data[8:])
        edit(directory)
        refused(directory, WEIGHTS, "not a whole safetensors file")


def test_weights_that_are_no_safetensors(directory):
    (directory / WEIGHTS).write_bytes(b"\x80\x04pickle")
    edit(directory)
    refused(directory, WEIGHTS, "not a whole safetensors file")


def test_tokenizer_that_is_none(directory):
    (directory / TOKENIZER).write_text("{}")
    edit(directory)
    refused(directory, TOKENIZER, "not a tokenizer")


def test_missing_left_over_and_other_tensors_are_named(directory):
    weights = load_file(directory / WEIGHTS)
    del weights["decoder.norm.weight"]
    weights["decoder.extra"] = torch.zeros(1)
    weights["resampler.latents"] = torch.zeros(3, 24)
    save_file(weights, directory / WEIGHTS)
    edit(directory)
    refused(
        directory, "1 missing (decoder.norm.weight)", "1 left over (decoder.extra)", "resampler.latents (3, 24) for (4, 24)"
    )


def test_a_shape_that_the_weights_do_not_fill_takes_no_memory(directory):
    config = json.loads((directory / CONFIG).read_text())["model"]
    config["decoder"] |= {"expert_dim": 10**9}
    edit(directory, model=config)
    refused(directory, "does not fit the model", "gate_up")
    edit(directory, model={})  # all defaults: 1.3 billion parameters
    refused(directory, "does not fit the model")


@pytest.mark.parametrize("text", ["", "not json", "[]", "null", "3", "[" * 100_000, '{"format": 1', "\ud800", "{}"])
def test_configs_that_are_none(directory, text):
    (directory / CONFIG).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(directory, CONFIG, "is not a model's config")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": []},
        {"model": None},
        {"sha256": [WEIGHTS]},
        {"sha256": {}},
        {"sha256": {WEIGHTS: 3, TOKENIZER: None}},
        {"sha256": {"../../etc/passwd": "0" * 64}},
        {"special_tokens": []},
        {"special_tokens": {"pad": 3}},
        {"special_tokens": {"stop": "<eos>"}},
        {"special_tokens": {"eos": "<stop>"}},
        {"special_tokens": {"eos": None}},
        {"special_tokens": {"medium": None}},
        {"decoder": {}},
        {"model": {"decoder": {"dim": "32"}}},
        {"model": {"decoder": {"num_heads": 0}}},
        {"model": {"decoder": {"num_layers": -1}}},
        {"model": {"decoder": {"depth": 3}}},
        {"model": {"encoder": {"name": "../x"}}},
        {"model": {"encoder": {"name": "resnet18"}}},
        {"model": {"encoder": {"library": "os"}}},
        {"model": {"image_mode": "crop"}},
    ],
    ids=str,
)
def test_hostile_configs(directory, changes):
    edit(directory, **changes)
    refused(directory)


@pytest.mark.parametrize("version", [0, 3, "1", None, []])
def test_other_formats(directory, version):
    edit(directory, format=version)
    refused(directory, f"format {version!r}", "reads formats 1, 2")


def test_pretrained_weights_named_in_a_config_are_not_fetched(directory):
    config = json.loads((directory / CONFIG).read_text())["model"]
    config["encoder"]["pretrained"] = "/nowhere/weights.pth"
    edit(directory, model=config)
    assert vlm.load(directory)[0].config.encoder.pretrained is None


def test_a_tokenizer_larger_than_the_model(saved, directory):
    text = json.loads((directory / TOKENIZER).read_text())
    text["model"]["vocab"]["extra"] = 260
    (directory / TOKENIZER).write_text(json.dumps(text))
    edit(directory)
    refused(directory, "261 tokens, the model 260")


def test_a_directory_of_hugging_faces_is_told_how_to_come_in(directory):
    (directory / CONFIG).write_text('{"model_type": "llama", "hidden_size": 8}')
    refused(directory, CONFIG, "is not a model's config", "python -m vlm.interop import")


def test_paths_without_a_model(tmp_path):
    refused(tmp_path / "nothing", "neither a run nor a model directory")
    (tmp_path / "config.yaml").write_text("")
    refused(tmp_path, "no finished stage yet")


@pytest.mark.parametrize("change", [("10000.0", "90000.0"), ('"format": 2', '"format": 3'), ('"medium"', '"Medium"')])
def test_a_changed_config_is_refused(directory, change):
    path = directory / CONFIG
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    refused(directory, CONFIG)
