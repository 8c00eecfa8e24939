"""Models of a few thousand random weights, gates open, float32; a tokenizer with one token a byte."""

from __future__ import annotations

import dataclasses
import io

import PIL.Image
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from encoders import EncoderConfig
from vlm import Batch, DecoderConfig, FusionConfig, Image, ModelConfig, ResamplerConfig, Sample, Text, Video
from vlm.model import VLM
from vlm.processor import SPECIAL_TOKENS


def byte_tokenizer() -> Tokenizer:
    """Special tokens are ids 0 to 3."""
    alphabet = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


CONFIG = ModelConfig(
    encoder=EncoderConfig(image_size=16, patch_size=4, width=16, depth=1, num_heads=2),
    resampler=ResamplerConfig(dim=24, num_latents=4, depth=2, num_heads=2, ffn_dim=32, max_frames=4),
    fusion=FusionConfig(every=2, num_heads=2, head_dim=8, ffn_dim=32, gate_init=0.7),
    decoder=DecoderConfig(
        vocab_size=260, dim=32, num_layers=3, num_heads=4, num_kv_heads=2, num_experts=4, top_k=2, expert_dim=24
    ),
)


def change(config: ModelConfig = CONFIG, **parts: dict) -> ModelConfig:
    """`change(fusion={"sees": "all"})`"""
    return dataclasses.replace(config, **{p: dataclasses.replace(getattr(config, p), **fields) for p, fields in parts.items()})


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    """No weight is zero, so every path matters; gates and norms stay as they were."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 or name.endswith("bias"):
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)


def build(config: ModelConfig = CONFIG) -> VLM:
    model = VLM(config).eval()
    randomize(model)
    return model


def picture(seed: int, side: int = 16) -> bytes:
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)).numpy()
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image(seed: int) -> Image:
    return Image(picture(seed))


def grown(batch: Batch, tokens: Tensor) -> Batch:
    """One more token behind each row's last, as a prompt that had been one longer."""
    rows, place = torch.arange(len(tokens)), batch.lengths

    def with_column(t: Tensor, values: Tensor) -> Tensor:
        t = torch.cat((t, t[:, -1:]), dim=1)
        t[rows, place] = values
        return t

    document = torch.cat((batch.document, torch.full_like(batch.document[:, -1:], -1)), dim=1)
    document[rows, place] = 0
    return dataclasses.replace(
        batch,
        tokens=with_column(batch.tokens, tokens),
        labels=with_column(batch.labels, torch.full_like(tokens, -100)),
        positions=with_column(batch.positions, place),
        document=document,
        image_index=with_column(batch.image_index, batch.image_index[rows, place - 1]),
    )


# Every arrangement of text and media that a document may have.
DOCUMENTS = (
    Sample((Text("no picture at all"),)),
    Sample((image(1), Text("one before"))),
    Sample((Text("text "), image(2), Text(" then one"))),
    Sample((image(3), image(4), Text("two side by side"))),
    Sample((Text("a "), image(5), Text("b "), image(6), Text("c"))),
    Sample((Video((picture(7), picture(8), picture(9)), (0.0, 0.5, 2.5)), Text("a clip"))),
    Sample((Text("ends with one"), image(10))),
)
