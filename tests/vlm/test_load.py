"""A model directory: round trip, damage, and hostile files."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm_fakes import DOCUMENTS, build, change

import vlm
from vlm.load import CONFIG, TOKENIZER, WEIGHTS, build_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from vlm_fakes import CONFIG as SHAPE
    from vlm_fakes import byte_tokenizer

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("saved") / "model"
    model = build()
    vlm.save(directory, model, build_processor(SHAPE, byte_tokenizer()))
    return directory, model


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def edit(directory, **changes):
    """Rewrite the config, its digests those of the files as they now are."""
    config = json.loads((directory / CONFIG).read_text())
    config["sha256"] = {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in (WEIGHTS, TOKENIZER)}
    (directory / CONFIG).write_text(json.dumps(config | changes))


def refused(path, *words):
    with pytest.raises(ValueError) as error:
        vlm.load(path)
    message = str(error.value)
    assert "\n" not in message and all(w in message for w in words), message


def test_round_trip_gives_equal_logits_and_text(saved, directory, processor):
    batch = processor(DOCUMENTS)
    for path in (directory, str(directory), directory.parent):  # the model, or the run that holds it
        model, loaded = vlm.load(path)
        with torch.no_grad():
            assert torch.equal(model(batch).logits, saved[1](batch).logits) and not model.training
        assert loaded(DOCUMENTS).tokens.equal(batch.tokens) and loaded.special == processor.special


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_round_trip_of_both_libraries_and_a_grid_start(tmp_path, processor, library):
    name = {"timm": "vit_base_patch16_224", "open_clip": "ViT-B-32"}[library]
    model = build(
        change(encoder={"library": library, "name": name}, resampler={"start": "grid"}, decoder={"tie_embeddings": False})
    )
    vlm.save(tmp_path / "m", model, processor)
    batch = processor(DOCUMENTS)
    with torch.no_grad():
        assert torch.equal(vlm.load(tmp_path / "m")[0](batch).logits, model(batch).logits)


def test_loads_to_bfloat16(directory, processor):
    model, _ = vlm.load(directory, dtype=torch.bfloat16)
    assert {t.dtype for t in model.state_dict().values()} == {torch.bfloat16}
    assert torch.isfinite(model(processor(DOCUMENTS)).loss)
    assert len(model.generate(processor(DOCUMENTS[:2]), max_new_tokens=2).tokens) == 2


def test_saving_again_replaces_the_model_and_leaves_nothing_else(directory, processor):
    model = build()
    vlm.save(directory, model, processor)
    assert [p.name for p in directory.parent.iterdir()] == ["model"]
    assert torch.equal(vlm.load(directory)[0].decoder.embedding.weight, model.decoder.embedding.weight)


@pytest.mark.parametrize("by", ["model", "run"])
@pytest.mark.parametrize("again", [False, True])
def test_killed_between_the_renames_the_old_model_is_found(saved, directory, processor, monkeypatch, by, again):
    replace = os.replace
    for _ in range(1 + again):  # the second time nothing but the old one is there
        calls = []

        def once(a, b, calls=calls):
            calls.append(a)
            if str(a).endswith(".new"):
                raise KeyboardInterrupt
            replace(a, b)

        monkeypatch.setattr(os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            vlm.save(directory, build(), processor)
    assert not directory.exists()
    model, _ = vlm.load(directory if by == "model" else directory.parent)
    assert torch.equal(model.decoder.embedding.weight, saved[1].decoder.embedding.weight)
    monkeypatch.setattr(os, "replace", replace)
    vlm.save(directory, model, processor)
    assert [p.name for p in directory.parent.iterdir()] == ["model"]


# -- damage -------------------------------------------------------------------------------------------------------------


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


def test_weights_that_are_no_safetensors(directory):
    (directory / WEIGHTS).write_bytes(b"\x80\x04pickle")
    edit(directory)
    refused(directory, WEIGHTS, "not a safetensors file")


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


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_formats(directory, version):
    edit(directory, format=version)
    refused(directory, f"format {version!r}", "reads format 1")


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


def test_paths_without_a_model(tmp_path):
    refused(tmp_path / "nothing", "neither a run nor a model directory")
    (tmp_path / "config.yaml").write_text("")
    refused(tmp_path, "no finished stage yet")
