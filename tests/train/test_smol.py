"""configs/smol.yaml at a tiny size, all the way: a dense decoder, upcycled, aligned with pictures, its text what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from train_runs import ROOT

import vlm
from train import fit as command
from train.config import Config, read_config
from vlm.decoder import TextDecoder
from vlm.interop.upcycle import upcycle
from vlm.load import build_processor
from vlm.processor import BOS, EOS, PAD
from vlm.sample import Sample, Text

SMOL = str(ROOT / "configs" / "smol.yaml")
SIZES = [
    "model.encoder={name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, width: 32, depth: 1, num_heads: 2}",
    "model.resampler={dim: 32, num_latents: 4, depth: 1, num_heads: 2, ffn_dim: 64, start: grid}",
    "model.fusion.num_heads=2",
    "model.fusion.ffn_dim=64",
    "model.decoder.vocab_size=260",
    "model.decoder.dim=32",
    "model.decoder.num_layers=7",
    "model.decoder.num_heads=4",
    "model.decoder.num_kv_heads=2",
    "model.decoder.expert_dim=16",
    "sources.code.bytes=50000",
    "sources.tables.size=500",
    "sources.charts.profile={name: glance, side: [32, 32]}",
    "sources.charts_held_out.profile={name: glance, side: [32, 32]}",
    "eval.charts=0",
    "eval.tables=0",
    "run.threads=1",
]


def text_model(config: Config, folder: Path) -> TextDecoder:
    """A random dense decoder; its upcycled form is saved in `folder`."""
    alphabet = [PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    shape = dataclasses.replace(config.model.decoder, vocab_size=259, num_experts=1, top_k=1)
    decoder = TextDecoder(shape)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grown = upcycle(decoder, experts=config.model.decoder.num_experts, top_k=config.model.decoder.top_k)
    vlm.save(folder, grown, build_processor(grown.config, tokenizer))
    return decoder


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    settings = [*SIZES, f"run.dir={tmp_path / 'run'}", "budget_scale=2.0e-8"]
    config = read_config(SMOL, settings)
    assert config.init_from == "models/smollm2-8x"
    with pytest.raises(ValueError, match="models/smollm2-8x is neither a run nor a model directory"):
        command.fit(config)
    dense = text_model(config, tmp_path / "models" / "smollm2-8x")
    command.fit(dataclasses.replace(config, stages=config.stages[:1]))
    model, processor = vlm.load(tmp_path / "run")
    assert all(block.attention_gate != 0 and block.ffn_gate != 0 for block in model.fusion.values())
    batch = processor([Sample((Text("The decoder is frozen: its text is what it was."),))])
    with torch.no_grad():
        torch.testing.assert_close(model(batch).logits[..., :259], dense(batch.tokens), atol=1e-5, rtol=0)


def test_its_decoder_is_smollm2_with_eight_experts_and_one_more_token() -> None:
    decoder = read_config(SMOL).model.decoder
    assert (decoder.dim, decoder.num_layers, decoder.num_heads, decoder.num_kv_heads, decoder.head_size) == (576, 30, 9, 3, 64)
    assert (decoder.num_experts, decoder.top_k, decoder.expert_dim, decoder.vocab_size) == (8, 2, 1536, 49153)
    assert decoder.rope_theta == 100_000.0 and decoder.tie_embeddings and decoder.normalize_top_k
    assert read_config(SMOL).model.fusion.gate_init == 0.0
