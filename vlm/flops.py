"""How much matrix arithmetic a batch is worth: of a forward pass, and of a training step, exactly, from shapes alone.

Counted is what the mathematics needs, so that the figure is the same for every way to compute it:

- a multiply-add is 2 FLOP; only products of matrices count, not norms, activations, softmax, biases or lookups;
- a query counts the keys that it may see: causal, inside its document, inside its window; about half of T x T for one document;
- a token counts the experts that it is sent to and the media that it sees; one that sees none is free where it is untouched;
- keys and values of a medium count once, whatever the text; a medium counts its own frames, not the longest clip's;
- padding counts nothing, and the head counts learnt tokens only;
- what is computed twice to save memory counts once: over the chip's peak this is the MFU (Chowdhery et al., 2022), not the HFU.

A gradient by the weights costs each product as much again where its group learns, and one by its input where anything before it
learns. So a frozen decoder still costs its gradients by activations, from the first gated block upwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from encoders import EncoderConfig, build_encoder
from vlm.batch import IGNORE, Batch
from vlm.config import DecoderConfig, FusionConfig, ModelConfig, ResamplerConfig
from vlm.meta import on_meta

PARTS = ("encoder", "resampler", "fusion", "decoder", "head")  # the head belongs to the group `decoder`


@dataclass(frozen=True)
class Load:
    """The numbers of a batch that its arithmetic goes by."""

    lengths: tuple[int, ...]  # tokens of each document in each row; padding is none
    frames: tuple[int, ...] = ()  # of each medium
    seeing: int = 0  # tokens that see a medium
    seen: int = 0  # (token, medium) pairs: media before a token in its document
    learnt: int = 0  # positions with a label

    @classmethod
    def of(cls, batch: Batch) -> Load:
        """Best asked before a batch goes to its device: there each number would wait for it."""
        rows, length = torch.arange(len(batch.tokens), device=batch.tokens.device), batch.tokens.shape[1]
        documents = (rows[:, None] * length + batch.document)[batch.document >= 0]
        last = batch.image_index[batch.image_index >= 0]
        frames = torch.bincount(batch.media_of_frame, minlength=batch.num_media)
        return cls(
            lengths=tuple(documents.unique_consecutive(return_counts=True)[1].tolist()),
            frames=tuple(frames.tolist()),
            seeing=len(last),
            seen=int(_places(batch)[last].sum()),
            learnt=int((batch.labels != IGNORE).sum()),
        )

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def pairs(self, window: int | None = None) -> int:
        """(query, key) pairs of causal self-attention inside documents."""
        short = [min(n, window or n) for n in self.lengths]
        return sum(s * (s + 1) // 2 + (n - s) * s for n, s in zip(self.lengths, short, strict=True))


def _places(batch: Batch) -> torch.Tensor:
    """[M] each medium's place among those of its document, from 1; those of a row stand in the order of its text."""
    row, document = batch.media_document.unbind(dim=1)
    _, group, size = (row * batch.tokens.shape[1] + document).unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    place = torch.arange(1, len(group) + 1, device=group.device) - (size.cumsum(0) - size)[group[order]]
    return torch.empty_like(place).index_copy_(0, order, place)


def flops(config: ModelConfig | DecoderConfig, load: Load, train: Collection[str] = ()) -> dict[str, int]:
    """FLOP by part (PARTS; of a decoder alone: decoder and head) of a forward pass and, where groups are named in `train`, of
    the gradients that they need. Raises `ValueError` for a group that the model does not have."""
    groups = ("decoder",) if isinstance(config, DecoderConfig) else PARTS[:4]
    if unknown := sorted(set(train) - set(groups)):
        raise ValueError(f"no parameter group {unknown[0]!r}; there are {', '.join(groups)}")
    if isinstance(config, DecoderConfig):
        return _decoder(config, load, first=None, learns="decoder" in train)
    eye = _eye(config.encoder)
    learns = _Learns(*(name in train for name in groups))
    latents, width = (config.resampler.num_latents, config.resampler.dim) if config.resampler else (eye.tokens, eye.dim)
    first = min(config.fusion.gated_layers(config.decoder.num_layers)) if learns.vision else None
    return {
        "encoder": sum(load.frames) * (eye.forward + learns.encoder * eye.gradient),
        "resampler": _resampler(config.resampler, load, eye, learns) if config.resampler else 0,
        "fusion": _fusion(config.fusion, load, config.decoder, latents, width, learns),
        **_decoder(config.decoder, load, first=first, learns=learns.decoder),
    }


@dataclass(frozen=True)
class _Learns:
    """Which groups do."""

    encoder: bool
    resampler: bool
    fusion: bool
    decoder: bool

    @property
    def latents(self) -> bool:
        """Do latents have a gradient?"""
        return self.encoder or self.resampler

    @property
    def vision(self) -> bool:
        return self.latents or self.fusion


def _product(forward: int, left: bool, right: bool) -> int:
    """A product's FLOP, with those of its gradient by each factor that has one."""
    return forward * (1 + left + right)


def _attention(forward: int, queries: bool, keys: bool) -> int:
    """Of scores and of the sum over values, `forward` FLOP each; gradients of queries, or of keys and values."""
    return _product(forward, queries, keys) + _product(forward, queries or keys, keys)


@dataclass(frozen=True)
class _Eye:
    """An encoder's shape, and the FLOP of one picture."""

    tokens: int
    dim: int
    forward: int
    gradient: int  # by its weights; none by the pixels


@lru_cache(maxsize=8)
def _eye(config: EncoderConfig) -> _Eye:
    """By torch's own counter over a network without memory: libraries have more kinds of block than a formula could know."""
    with on_meta():
        encoder = build_encoder(dataclasses.replace(config, pretrained=None))
        picture = torch.empty(1, 3, config.image_size, config.image_size, dtype=torch.uint8)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        tokens = encoder(picture)
        forward = counter.get_total_flops()
        tokens.sum().backward()
    gradient = counter.get_total_flops() - forward
    _, count, dim = tokens.shape
    return _Eye(count, dim, forward, min(gradient, 2 * forward))  # torch takes a grouped convolution's for a whole one's


def _resampler(config: ResamplerConfig, load: Load, eye: _Eye, learns: _Learns) -> int:
    own, inner = learns.resampler, config.num_heads * config.head_size
    patches, latents = sum(load.frames) * eye.tokens, len(load.frames) * config.num_latents
    keys = patches + latents
    project = 2 * patches * eye.dim * config.dim if eye.dim != config.dim else 0
    total = _product(project, own, learns.encoder)
    for layer in range(config.depth):
        query = own or (learns.encoder and layer > 0)  # the first latents are parameters
        total += _product(2 * latents * config.dim * inner, own, query)
        total += _product(2 * keys * config.dim * 2 * inner, own, learns.latents)
        total += _attention(2 * config.num_latents * keys * inner, query, learns.latents)
        total += _product(2 * latents * config.dim * (inner + 2 * config.ffn_dim), own, learns.latents)
    return total


def _fusion(config: FusionConfig, load: Load, decoder: DecoderConfig, latents: int, width: int, learns: _Learns) -> int:
    """`latents` of this `width` for each medium."""
    own, inner, dim = learns.fusion, config.num_heads * config.head_dim, decoder.dim
    seen = load.seeing if config.sees == "last" else load.seen
    fed = load.seeing if config.pass_without_image else load.tokens
    feed_forward = 2 * fed * dim * config.ffn_dim * (3 if config.ffn == "gated" else 2)
    total = 0
    for block in range(len(config.gated_layers(decoder.num_layers))):
        query = own or learns.decoder or (learns.vision and block > 0)  # the block's first norm stands before it
        total += _product(2 * len(load.frames) * latents * width * 2 * inner, own, learns.latents)
        total += _product(2 * load.seeing * dim * inner, own, query)
        total += _attention(2 * seen * latents * inner, query, own or learns.latents)
        total += _product(2 * load.seeing * inner * dim + feed_forward, own, query or learns.vision)
    return total


def _decoder(config: DecoderConfig, load: Load, *, first: int | None, learns: bool) -> dict[str, int]:
    """`first`: the layer from which on the stream has a gradient even where the decoder is frozen; `None`: no layer."""
    heads, kv_heads = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    projections = 2 * config.dim * 2 * (heads + kv_heads)
    total = 0
    for layer in range(config.num_layers):
        stream = learns or (first is not None and layer >= first)
        total += _product(load.tokens * (projections + _feed_forward(config, layer)), learns, stream)
        total += _attention(2 * load.pairs(config.window(layer)) * heads, stream, stream)
    head = _product(2 * load.learnt * config.dim * config.vocab_size, learns, learns or first is not None)
    return {"decoder": total, "head": head}


def _feed_forward(config: DecoderConfig, layer: int) -> int:
    """A token's, forward: the router, and the three matrices of each expert that it passes."""
    if not config.is_moe(layer):
        return 2 * config.dim * 3 * config.ffn_dim(layer)
    return 2 * config.dim * (config.num_experts + 3 * (config.top_k * config.expert_dim + config.shared_dim))
