"""What of Idefics is refused: one line, that names the file and the key, or the option of ours that Idefics has no word for."""

import pytest
import torch
from idefics_fakes import RESAMPLER, VISION, edit, idefics_like, make_peer, weights_with
from vlm_fakes import build

from vlm.interop import export, load_hf


@pytest.fixture
def directory(tmp_path):
    make_peer(use_resampler=True, vocab_size=258, additional_vocab_size=2, cross_layer_interval=2).save_pretrained(tmp_path)
    return tmp_path


def refused(call, *said):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 4"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 3 is not a multiple of cross_layer_interval 2"),
        ({"num_hidden_layers": 4000}, "4000 layers do not fit"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers 1000000000000"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"alpha_type": "matrix"}, "alpha_type 'matrix'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
        ({"vision_config": {**VISION, "num_channels": 1}}, "vision_config.num_channels 1"),
        ({"vision_config": {**VISION, "hidden_act": "silu"}}, "vision_config.hidden_act 'silu'"),
        ({"vision_config": {**VISION, "image_size": [12, 12]}}, "vision_config.image_size"),
        ({"vision_config": {**VISION, "image_size": 13}}, "image_size 13 is not a multiple of patch_size 4"),
        ({"vision_config": 7}, "vision_config"),
        ({"perceiver_config": {**RESAMPLER, "resampler_depth": 900}}, "900 layers do not fit"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "'spiral'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_key(directory, fields, said):
    edit(directory / "config.json", **fields)
    refused(lambda: load_hf(directory), str(directory / "config.json"), said)


@pytest.mark.parametrize("fields", [{"image_std": [0, 1, 1]}, {"image_mean": [1.0]}, {"do_normalize": False}, {"resample": 9}])
def test_pixels_that_cannot_be_are_refused(directory, fields):
    edit(directory / "preprocessor_config.json", **fields)
    refused(lambda: load_hf(directory), "preprocessor_config.json", next(iter(fields)))


GATE = "model.gated_cross_attn_layers.1.alpha_dense"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({GATE: None}, f"1 missing ({GATE})"),
        ({GATE: torch.zeros(1, 1, 32)}, f"of another shape ({GATE} (1, 1, 32) for (1,))"),
        ({"model.extra": torch.zeros(1)}, "1 left over (model.extra)"),
    ],
)
def test_weights_that_do_not_fit_are_named_as_in_the_file(directory, tensors, said):
    weights_with(directory, **tensors)
    refused(lambda: load_hf(directory), "model.safetensors", said)


@pytest.mark.parametrize(
    ("part", "fields", "said"),
    [
        ("decoder", {"num_experts": 4, "top_k": 2}, "decoder.num_experts 4"),
        ("decoder", {"num_kv_heads": 2}, "decoder.num_kv_heads 2, only 4 here"),
        ("decoder", {"head_dim": 10}, "decoder.head_dim 10"),
        ("decoder", {"attention_bias": True}, "decoder.attention_bias True"),
        ("decoder", {"query_key_norm": "head"}, "decoder.query_key_norm 'head'"),
        ("decoder", {"shifted_kv_heads": 1}, "decoder.shifted_kv_heads 1"),
        ("decoder", {"sliding_window": 4}, "decoder.sliding_window"),
        ("decoder", {"dense_layers": (1,), "dense_dim": 8}, "decoder.expert_dim [24, 8, 24, 24]"),
        ("decoder", {"num_layers": 3}, "num_hidden_layers 3 is not a multiple of cross_layer_interval 2"),
        ("fusion", {"pass_without_image": True}, "fusion.pass_without_image True"),
        ("fusion", {"sees": "all"}, "fusion.sees 'all'"),
        ("fusion", {"layers": (1, 3)}, "fusion.layers (1, 3)"),
        ("fusion", {"norm_eps": 1e-3}, "fusion.norm_eps 0.001"),
        ("fusion", {"num_heads": 2}, "fusion.num_heads 2"),
        ("fusion", {"activation": "relu"}, "fusion.activation 'relu'"),
        ("resampler", {"activation": "gelu"}, "resampler.activation 'gelu'"),
        ("resampler", {"ffn_dim": 32}, "resampler.ffn_dim 32"),
        ("resampler", {"dim": 24, "ffn_dim": 96}, "resampler.dim 24"),
        ("encoder", {"stem": "conv"}, "encoder.name 'vit_base_patch16_clip_224' with stem 'conv'"),
        ("encoder", {"name": "vit_base_patch16_224"}, "encoder.name 'vit_base_patch16_224'"),
        ("encoder", {"library": "open_clip", "name": "ViT-B-32"}, "encoder.name 'ViT-B-32'"),
        ("encoder", {"final_norm": True}, "encoder.final_norm True"),
        ("encoder", {"prefix_tokens": False}, "encoder.prefix_tokens False"),
    ],
)
def test_what_idefics_cannot_say_is_refused_by_name_and_nothing_is_written(tmp_path, part, fields, said):
    refused(lambda: export(idefics_like(**{part: fields}), tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


def test_learnt_times_and_too_many_additional_rows_are_refused(tmp_path):
    model = idefics_like()
    refused(lambda: export(model, tmp_path, additional_vocab_size=260), "additional_vocab_size 260")
    refused(lambda: export(model, tmp_path, "llama"), "llama")
    with torch.no_grad():
        model.resampler.time[2] = 1
    refused(lambda: export(model, tmp_path), "resampler.time")
    refused(lambda: export(build(), tmp_path), "Idefics cannot say encoder.name")
