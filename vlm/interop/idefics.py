"""Idefics, first version (Laurençon et al., 2023; `model_type` "idefics"): its directories in and out, and how it is prompted.

The shape is ours with these options: a CLIP tower whose tokens keep the class token and pass no last norm, a resampler with
ReLU (or none: text then looks at the tower's tokens), gated blocks with RMS norm, gated feed-forward and gates that are a
number or a vector, which act on every token (`pass_without_image: false`), and a Llama.

Its "decoupled" tables, a frozen one and a few rows added for `<image>` and its fellows, are one table here: the same
function. What it has and we do not is the tower's last norm, which it applies to a pooled vector that nothing reads: it is
written as the identity. What we have and it does not is refused by name.

A prompt differs from ours in one thing: `<fake_token_around_image>` stands around each run of pictures and between them.
`Processor(..., around=AROUND)` puts it there; the command `import` says so where the tokenizer has it. Idefics' own processor
also strips spaces from the ends of each text and, with a chat model, puts `<end_of_utterance>` between texts: both are left to
the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from encoders.weights import check_weights
from vlm.files import Weights
from vlm.interop.idefics_config import ConfigFile, read_config, read_pixels, shape
from vlm.interop.idefics_weights import views
from vlm.meta import on_meta
from vlm.model import VLM
from vlm.resampler import PerceiverResampler

AROUND = "<fake_token_around_image>"
UNREAD = (".rotary_emb.inv_freq", ".position_ids", "vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias")
TIED = {
    "lm_head.weight": "model.embed_tokens.weight",
    "lm_head.additional_fc.weight": "model.embed_tokens.additional_embedding.weight",
}


def load(
    directory: Path, raw: Mapping, weights: Weights, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> VLM:
    """The model of a directory whose config.json is `raw`, in eval mode. Raises as `vlm.interop.load_hf`."""
    pixels = read_pixels(directory)
    try:
        file = read_config(raw)
        _check_depth(file, weights)
        file = _untied(file, weights)
        with on_meta():
            model = VLM(shape(file, raw, pixels))
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from None
    unread = UNREAD + tuple(TIED) if file.tie_word_embeddings else UNREAD
    names = [name for name in weights if not name.endswith(unread)]
    found = {name: torch.empty(weights.shape(name), device="meta") for name in names}
    check_weights(views(model, file.additional_vocab_size), found, weights.source)  # before memory is taken
    model.to(dtype or weights[TIED["lm_head.weight"]].dtype).to_empty(device=device)
    model.encoder.reset_buffers()
    with torch.no_grad():
        if isinstance(model.resampler, PerceiverResampler):
            model.resampler.time.zero_()
        for name, view in views(model, file.additional_vocab_size).items():
            view.copy_(weights[name])
    weights.release()
    return model.eval()


def _check_depth(file: ConfigFile, weights: Weights) -> None:
    """Before so many layers are built."""
    deepest = max(file.num_hidden_layers, file.vision_config.num_hidden_layers, file.perceiver_config.resampler_depth)
    if deepest > len(weights):
        raise ValueError(f"{deepest} layers do not fit {weights.source} with its {len(weights)} tensors")


def _untied(file: ConfigFile, weights: Weights) -> ConfigFile:
    """As transformers 5: where a tied model's file holds another head, that head goes first."""
    if file.tie_word_embeddings and not all(_same(weights, head, table) for head, table in TIED.items()):
        return dataclasses.replace(file, tie_word_embeddings=False)
    return file


def _same(weights: Weights, head: str, table: str) -> bool:
    """Is there no head beside the table, or one that is the table?"""
    if head not in weights or table not in weights or weights.shape(head) != weights.shape(table):
        return True
    return torch.equal(weights[head], weights[table])
