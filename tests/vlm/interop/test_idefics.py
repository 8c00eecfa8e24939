"""Idefics against transformers: logits, generation, directories both ways, prompts."""

import io
import json

import PIL.Image
import pytest
import torch
from idefics_fakes import (
    PICTURES,
    RESAMPLER,
    VISION,
    difference,
    edit,
    idefics_like,
    inputs,
    make_peer,
    processing,
    processor_of,
    prompt,
    transformers,
    weights_with,
)
from safetensors.torch import load_file
from vlm_fakes import DOCUMENTS, byte_tokenizer, picture

from vlm import Image, Sample, Text
from vlm.interop import export, load_hf
from vlm.interop.__main__ import main
from vlm.interop.idefics import AROUND
from vlm.load import build_processor, load

FILES = {
    "plain": {},
    "vector gates, normed queries, every layer": {"alpha_type": "vector", "qk_layer_norms": True, "cross_layer_interval": 1},
    "resampler, additional rows": {
        "use_resampler": True,
        "vocab_size": 257,
        "additional_vocab_size": 3,
        "cross_layer_interval": 2,
    },
    "tied, all options": {
        "vocab_size": 258,
        "additional_vocab_size": 2,
        "tie_word_embeddings": True,
        "use_resampler": True,
        "qk_layer_norms": True,
        "alpha_type": "vector",
        "perceiver_config": {**RESAMPLER, "qk_layer_norms_perceiver": True},
        "num_hidden_layers": 3,
        "cross_layer_interval": 3,
        "hidden_act": "gelu",
        "vision_config": {**VISION, "hidden_act": "quick_gelu", "image_size": 8},
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    },
}


@pytest.fixture(scope="module", params=FILES)
def pair(request, tmp_path_factory):
    """A model of transformers, its directory, and what we read from there."""
    torch.manual_seed(0)
    peer = make_peer(**FILES[request.param])
    directory = tmp_path_factory.mktemp("idefics")
    peer.save_pretrained(directory)
    return peer, directory, load_hf(directory)


# Several pictures a row, none, before the text and after it, padding; then no picture in the whole batch.
@pytest.mark.parametrize("samples", [PICTURES, (DOCUMENTS[0],)])
def test_logits_equal(pair, samples):
    peer, _, model = pair
    assert difference(peer, model, processor_of(model)(samples)) < 1e-4


def test_logits_move_with_the_picture_and_the_gates(pair):
    """So that the test above cannot pass by seeing nothing."""
    _, _, model = pair
    batch = processor_of(model)(PICTURES)
    with torch.no_grad():
        seen, blank, blind = (model(b).logits for b in (batch, batch.with_blank_images(), batch.without_images()))
    looks = batch.image_index >= 0
    assert (seen - blank).abs().amax(-1)[looks].min() > 1e-3 and (seen - blind).abs().amax(-1)[looks].min() > 1e-3


def test_greedy_generation_with_cache_equals(pair):
    peer, _, model = pair
    for sample in map(
        prompt, (DOCUMENTS[4], DOCUMENTS[0], DOCUMENTS[3], DOCUMENTS[6])
    ):  # one by one: transformers wants prompts padded on the left
        batch = processor_of(model)([sample])
        theirs = peer.generate(**inputs(model, batch), max_new_tokens=12, do_sample=False, eos_token_id=None)
        ours = model.generate(batch, max_new_tokens=12)
        assert ours.tokens[0] == theirs[0, batch.tokens.shape[1] :].tolist()


@pytest.mark.parametrize("additional", [0, 2])
def test_what_we_write_transformers_reads(pair, tmp_path, additional):
    peer, _, model = pair
    export(model, tmp_path, additional_vocab_size=additional)
    back, report = transformers.IdeficsForVisionText2Text.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert back.config.additional_vocab_size == additional
    batch = processor_of(model)(PICTURES)
    with torch.no_grad():
        given = inputs(model, batch)
        torch.testing.assert_close(back(**given).logits, peer(**given).logits, atol=1e-5, rtol=0)
    again = load_hf(tmp_path)
    assert again.config == model.config
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_every_weight_of_theirs_is_read(pair):
    """Each tensor is written from ours with the value it had, but for the norm that nothing reads."""
    peer, directory, model = pair
    export(model, directory / "out", additional_vocab_size=peer.config.additional_vocab_size)
    theirs, ours = load_file(directory / "model.safetensors"), load_file(directory / "out" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert {n for n in theirs if not torch.equal(theirs[n], ours[n])} == {n for n in theirs if ".post_layernorm." in n}


# -- forms of directories -----------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    make_peer(use_resampler=True, vocab_size=258, additional_vocab_size=2, cross_layer_interval=2).save_pretrained(tmp_path)
    return tmp_path


def test_what_old_files_hold_besides_is_passed_over(directory):
    model = load_hf(directory)
    config = json.loads((directory / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    (directory / "config.json").write_text(
        json.dumps(config | {"rope_theta": theta, "vision_model_name": "x", "dropout": None})
    )
    weights_with(directory, **{
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.vision_model.embeddings.position_ids": torch.arange(10)[None],
        "model.vision_model.post_layernorm.weight": None,
    })  # fmt: skip
    again = load_hf(directory)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_shards_and_half_precision(tmp_path):
    peer = make_peer(qk_layer_norms=True, use_resampler=True).to(torch.bfloat16)
    peer.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    stored, single = load_hf(tmp_path, dtype=None), load_hf(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    batch = processor_of(single)(PICTURES)
    wide = transformers.IdeficsForVisionText2Text.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert difference(wide, single, batch) < 1e-4
    with torch.no_grad():
        exact, given = single(batch).logits, inputs(stored, batch)
        ours, theirs = ((x.float() - exact)[batch.document >= 0].std() for x in (stored(batch).logits, peer(**given).logits))
        assert ours < 1.5 * theirs < 0.1 * exact.std()


def test_a_tied_model_with_another_head_keeps_it(tmp_path):
    peer = make_peer(tie_word_embeddings=False)
    peer.save_pretrained(tmp_path)
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    model = load_hf(tmp_path)
    assert model.config.decoder.tie_embeddings is False and difference(peer, model, processor_of(model)(PICTURES)) < 1e-4


PIXELS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 2}


@pytest.mark.parametrize("new", [False, True])
def test_pixels_are_normalised_as_the_directory_says(directory, tmp_path_factory, new):
    assert load_hf(directory).config.encoder.mean == (0.48145466, 0.4578275, 0.40821073)  # Idefics' own, where nothing says
    name = "processor_config.json" if new else "preprocessor_config.json"
    edit(directory / name, **({"image_processor": PIXELS} if new else PIXELS))
    model = load_hf(directory)
    white = torch.full((1, 3, 12, 12), 255, dtype=torch.uint8)
    torch.testing.assert_close(model.encoder.normalise(white)[0, :, 0, 0], torch.tensor([0.9 / 0.5, 0.8 / 0.6, 0.7 / 0.7]))
    export(model, out := tmp_path_factory.mktemp("out"))
    assert PIXELS.items() <= json.loads((out / "preprocessor_config.json").read_text()).items()
    assert load_hf(out).config.encoder == model.config.encoder


def test_a_model_of_ours_in_this_shape_is_an_idefics(tmp_path):
    """Also with CLIP's other names in timm, and with options that change nothing."""
    encoder = {"name": "vit_base_patch16_clip_quickgelu_224"}
    model = idefics_like(encoder=encoder, fusion={"every": 1, "layers": (0, 2)}, decoder={"dense_layers": (1,)})
    export(model, tmp_path)
    peer = transformers.IdeficsForVisionText2Text.from_pretrained(tmp_path).eval()
    assert peer.config.vision_config.hidden_act == "quick_gelu" and peer.config.cross_layer_interval == 2
    assert difference(peer, model, processor_of(model)(PICTURES)) < 1e-4


# -- prompts ------------------------------------------------------------------------------------------------------------


def test_prompts_have_the_ids_and_pixels_of_their_processor(tmp_path):
    model = idefics_like()
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AROUND])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", padding_side="right"
    )
    pictures = [PIL.Image.open(io.BytesIO(picture(seed, side=20))) for seed in range(4)]
    theirs = processing.IdeficsProcessor(transformers.IdeficsImageProcessorPil(image_size=16), wrapped, image_size=16)
    prompts = [["User:", pictures[0], pictures[1], "two", pictures[2], "one"], [pictures[3], "x"], ["nothing"]]
    given = theirs(text=prompts, return_tensors="pt")
    processor = build_processor(model.config, tokenizer, {"around": AROUND})
    samples = [Sample(tuple(Text(s, learn=False) if isinstance(s, str) else Image(s) for s in p)) for p in prompts]
    batch = processor(samples)
    assert torch.equal(batch.tokens, given["input_ids"])
    ours = inputs(model, batch)
    assert torch.equal(ours["attention_mask"], given["attention_mask"])
    assert torch.equal(ours["image_attention_mask"][batch.document >= 0], given["image_attention_mask"][batch.document >= 0])
    for row in range(3):
        count = int((batch.media_document[:, 0] == row).sum())
        torch.testing.assert_close(ours["pixel_values"][row, :count], given["pixel_values"][row, :count], atol=1e-5, rtol=1e-5)


def test_the_commands_keep_what_stands_around_pictures(directory, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AROUND])
    make_peer(vocab_size=258, additional_vocab_size=3).save_pretrained(directory)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    wrapped.save_pretrained(directory)
    main(["import", str(directory), str(tmp_path / "ours")])
    model, processor = load(tmp_path / "ours")
    assert processor.special["around"] == AROUND and processor.special["bos"] == "<bos>"
    assert processor.tokenizer.token_to_id(AROUND) == 260
    assert processor([DOCUMENTS[1]]).tokens[0, :4].tolist() == [1, 260, 3, 260]
    main(["export", str(tmp_path / "ours"), str(tmp_path / "back")])
    back = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "back").eval()
    assert transformers.AutoProcessor.from_pretrained(tmp_path / "back").tokenizer.convert_tokens_to_ids(AROUND) == 260
    assert difference(back, model, processor_of(model)(PICTURES)) < 1e-4
