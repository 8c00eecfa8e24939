"""A model directory: round trips, shards, types, a decoder alone, other formats."""

import json
import os
from pathlib import Path

import pytest
import torch
from load_fakes import refused
from safetensors.torch import load_file
from vlm_fakes import DOCUMENTS, build, byte_tokenizer, change

import vlm
from vlm.config import RopeScaling
from vlm.load import CHAT_TEMPLATE, CONFIG, INDEX, TOKENIZER, WEIGHTS, build_processor


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
            if str(a).endswith(".model.new"):
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


# -- shards, types, a decoder alone, other formats ----------------------------------------------------------------------


def test_shards_are_listed_hashed_and_read_back(saved, tmp_path, processor):
    vlm.save(tmp_path / "m", saved[1], processor, max_shard_bytes=20_000)
    shards = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    config = json.loads((tmp_path / "m" / CONFIG).read_text())
    assert set(config["sha256"]) == {*shards, INDEX, TOKENIZER, CONFIG}
    sizes = {name: load_file(tmp_path / "m" / name) for name in shards}
    assert all(len(held) == 1 or sum(t.nbytes for t in held.values()) <= 20_000 for held in sizes.values())
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    assert index["weight_map"] == {name: file for file, held in sizes.items() for name in held}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in saved[1].state_dict().values())
    batch = processor(DOCUMENTS)
    with torch.no_grad():
        assert torch.equal(vlm.load(tmp_path / "m")[0](batch).logits, saved[1](batch).logits)


def test_tied_weights_are_stored_once(tmp_path, processor):
    model = build()
    vlm.save(tmp_path / "m", model, processor)
    names = [n for n in load_file(tmp_path / "m" / WEIGHTS) if n.endswith(("embedding.weight", "head.weight"))]
    assert names == ["decoder.embedding.weight"]
    loaded, _ = vlm.load(tmp_path / "m")
    assert loaded.decoder.head_weight is loaded.decoder.embedding.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_as_stored_or_widened(tmp_path, processor, dtype):
    model = build().to(dtype)
    vlm.save(tmp_path / "m", model, processor)
    same, _ = vlm.load(tmp_path / "m", dtype=None)
    wide, _ = vlm.load(tmp_path / "m")
    for name, tensor in model.state_dict().items():
        assert same.state_dict()[name].dtype == dtype and torch.equal(same.state_dict()[name], tensor)
        assert wide.state_dict()[name].dtype == torch.float32 and torch.equal(wide.state_dict()[name], tensor.float())
    assert torch.isfinite(same(processor(DOCUMENTS)).loss)


def test_a_loaded_model_can_be_trained_and_owns_its_memory(directory, processor):
    model, _ = vlm.load(directory)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    before = model.decoder.embedding.weight.detach().clone()
    (directory / WEIGHTS).write_bytes(bytes((directory / WEIGHTS).stat().st_size))
    assert torch.equal(model.decoder.embedding.weight, before)
    model(processor(DOCUMENTS)).loss.backward()


def test_meta_gives_the_shape_and_reads_no_weight(saved, directory, monkeypatch):
    monkeypatch.setattr("vlm.files.Weights.__getitem__", None)
    model, _ = vlm.load(directory, device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in saved[1].named_parameters()}
    data = bytearray((directory / TOKENIZER).read_bytes())
    data[-2] ^= 1
    (directory / TOKENIZER).write_bytes(data)
    with pytest.raises(ValueError, match=r"tokenizer.json is missing or damaged"):
        vlm.load(directory, device="meta")


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False}, {"num_experts": 1, "top_k": 1}], ids=str)
def test_a_decoder_alone(tmp_path, options):
    decoder = build(change(decoder=options)).decoder
    template = "{% for m in messages %}{{ m['content'] }}\r\n{% endfor %}"
    vlm.save(tmp_path / "m", decoder, build_processor(decoder.config, byte_tokenizer(), chat_template=template))
    loaded, processor = vlm.load(tmp_path / "m")
    assert isinstance(loaded, vlm.TextDecoder) and loaded.config == decoder.config and not loaded.training
    assert processor.image is None and processor.image_id is None and processor.chat_template == template
    batch = processor([vlm.Sample((vlm.Text("text alone"),)), vlm.Sample((vlm.Text("two"),))])
    with torch.no_grad():
        assert torch.equal(loaded(batch.tokens), decoder(batch.tokens))
    with pytest.raises(ValueError, match="reads text alone"):
        processor(DOCUMENTS[1:2])


def test_the_chat_template_is_hashed(saved, tmp_path, processor):
    vlm.save(tmp_path / "m", saved[1], build_processor(saved[1].config, processor.tokenizer, chat_template="{{ messages }}"))
    assert vlm.load(tmp_path / "m")[1].chat_template == "{{ messages }}"
    (tmp_path / "m" / CHAT_TEMPLATE).write_text("{{ other }}")
    refused(tmp_path / "m", CHAT_TEMPLATE)


def test_format_1_is_still_read():
    model, processor = vlm.load(Path(__file__).parent / "data" / "format-1")
    with torch.no_grad():
        assert model(processor(DOCUMENTS)).loss.item() == pytest.approx(6.385674953460693, abs=1e-5)


def test_what_else_stands_there_stays(directory, processor):
    """An evaluation of the model that is replaced, say."""
    (directory / "eval").mkdir()
    (directory / "eval" / "records.jsonl").write_text("{}\n")
    (directory / "notes.txt").write_text("mine")
    vlm.save(directory, build(), processor, max_shard_bytes=20_000)
    vlm.save(directory, build(), processor)
    assert (directory / "eval" / "records.jsonl").read_text() == "{}\n" and (directory / "notes.txt").read_text() == "mine"
    assert not list(directory.glob("model-*")) and vlm.load(directory)


def test_a_directory_of_other_things_is_not_replaced(tmp_path, processor):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not a model of the kind to be written"):
        vlm.save(tmp_path, build(), processor)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_rotary_positions_set_by_hand_are_saved(tmp_path, processor):
    model = build()
    model.decoder.set_rope(500.0, RopeScaling("linear", 8.0))
    vlm.save(tmp_path / "m", model, processor)
    batch = processor(DOCUMENTS)
    with torch.no_grad():
        assert torch.equal(vlm.load(tmp_path / "m")[0](batch).logits, model(batch).logits)


def test_on_meta_types_are_those_stored(tmp_path, processor):
    vlm.save(tmp_path / "m", build().bfloat16(), processor)
    model, _ = vlm.load(tmp_path / "m", device="meta", dtype=None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and all(p.is_meta for p in model.parameters())
