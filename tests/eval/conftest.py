"""A model of a few thousand parameters with a byte-level tokenizer: untrained, but every path is the real one."""

from __future__ import annotations

import io

import PIL.Image
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from encoders import EncoderConfig
from eval.tasks import Item
from vlm.config import DecoderConfig, FusionConfig, ModelConfig, ResamplerConfig
from vlm.load import build_processor
from vlm.model import VLM
from vlm.processor import SPECIAL_TOKENS


@pytest.fixture(scope="session")
def model_and_processor():
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    encoder = EncoderConfig(image_size=32, patch_size=8, width=32, depth=1, num_heads=2)
    config = ModelConfig(
        encoder=encoder,
        resampler=ResamplerConfig(dim=32, num_latents=4, depth=1, num_heads=2, ffn_dim=32, max_frames=2),
        fusion=FusionConfig(every=1, num_heads=2, head_dim=16, ffn_dim=32, gate_init=1.0),
        decoder=DecoderConfig(
            vocab_size=tokenizer.get_vocab_size(),
            dim=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            num_experts=2,
            top_k=1,
            expert_dim=32,
        ),
    )
    return VLM(config).eval(), build_processor(config, tokenizer)


def picture(level: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (side, side), (level, 255 - level, 7 * level % 256)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def items() -> list[Item]:
    """Thirty questions of different lengths about ten pictures."""
    return [
        Item(
            f"q{i}",
            f"How many {'very ' * (i % 4)}red bars?",
            (str(i),),
            (picture(i // 3 * 20),),
            group=f"p{i // 3}",
            tags={"kind": "ab"[i % 2]},
        )
        for i in range(30)
    ]
