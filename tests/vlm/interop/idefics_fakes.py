"""Random models of Idefics that transformers makes, the same input for both sides, and a model of ours in their shape."""

from __future__ import annotations

import dataclasses
import json
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm_fakes import CONFIG, DOCUMENTS, build, byte_tokenizer

from vlm import Sample, Text
from vlm.load import build_processor

transformers = pytest.importorskip("transformers")
processing = pytest.importorskip("transformers.models.idefics.processing_idefics")

PICTURES = tuple(DOCUMENTS[i] for i in (4, 0, 1, 2, 3, 6))  # no clips: Idefics has none
VISION = {
    "embed_dim": 24,
    "image_size": 12,
    "intermediate_size": 20,
    "patch_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-4,
}
RESAMPLER = {"resampler_n_latents": 5, "resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 10}
TEXT = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-4,
    "pad_token_id": 0,
}


@torch.no_grad()
def make_peer(**fields):
    """A random model of transformers in which no norm, bias or gate is trivial."""
    config = {"vision_config": VISION, "perceiver_config": RESAMPLER, **TEXT, **fields}
    peer = transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig(**config)).eval()
    for name, parameter in peer.named_parameters():
        if "alpha" in name:
            parameter.normal_()
        elif name.endswith("bias"):
            parameter.normal_(std=0.3)
        elif "norm" in name or name.endswith(".ln.weight"):
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(std=1.2 * parameter.shape[-1] ** -0.5)
    return peer


def processor_of(model):
    return build_processor(model.config, byte_tokenizer())


def prompt(sample):
    """Nothing learnt, so no end-of-text token: their masks let a token after it see nothing."""
    return Sample(tuple(Text(s.text, learn=False) if isinstance(s, Text) else s for s in sample.segments))


def inputs(model, batch):
    """What transformers' own processor gives for such a batch: its masks are made from the ids alone."""
    per_row = [batch.images[batch.media_document[:, 0] == row] for row in range(len(batch.tokens))]
    most = max(1, max(map(len, per_row)))
    size = model.config.encoder.image_size
    pixels = torch.zeros(len(per_row), most, 3, size, size, dtype=next(model.parameters()).dtype)
    for row, images in enumerate(per_row):
        pixels[row, : len(images)] = model.encoder.normalise(images)
    tokenizer = types.SimpleNamespace(convert_tokens_to_ids=lambda name: 3, eos_token_id=2)
    last, _ = processing.image_attention_mask_for_packed_input_ids(batch.tokens, tokenizer, "pt")
    mask = processing.incremental_to_binary_attention_mask(last, "pt", num_classes=most)
    mask = mask if batch.num_media else torch.zeros(*batch.tokens.shape, 1, dtype=torch.bool)
    return {
        "input_ids": batch.tokens,
        "attention_mask": (batch.document >= 0).long(),
        "pixel_values": pixels,
        "image_attention_mask": mask,
    }


@torch.no_grad()
def difference(peer, model, batch):
    """The largest of a real token's logits."""
    return float((peer(**inputs(model, batch)).logits - model(batch).logits)[batch.document >= 0].abs().max())


def edit(path, **fields):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields).replace("Infinity", "1e999"))


def weights_with(directory, **tensors):
    weights = load_file(directory / "model.safetensors")
    save_file({name: t for name, t in (weights | tensors).items() if t is not None}, directory / "model.safetensors")


def idefics_like(**parts):
    """The shape that `directory` has, with parts of it replaced, as a model."""
    config = dataclasses.replace(
        CONFIG,
        encoder=dataclasses.replace(
            CONFIG.encoder, name="vit_base_patch16_clip_224", prefix_tokens=True, final_norm=False, num_heads=2
        ),
        resampler=dataclasses.replace(CONFIG.resampler, dim=16, ffn_dim=64, activation="relu"),
        fusion=dataclasses.replace(
            CONFIG.fusion,
            every=2,
            num_heads=4,
            norm="rms",
            ffn="gated",
            activation="silu",
            ffn_dim=24,
            pass_without_image=False,
        ),
        decoder=dataclasses.replace(CONFIG.decoder, num_layers=4, num_kv_heads=4, num_experts=1, top_k=1, expert_dim=24),
        image_mode="squash",
    )
    model = build(dataclasses.replace(config, **{n: dataclasses.replace(getattr(config, n), **f) for n, f in parts.items()}))
    torch.nn.init.zeros_(model.resampler.time)
    return model
