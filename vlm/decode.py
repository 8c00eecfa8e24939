"""One more token in each row, by the kernels of `vlm.kernels`: what `decode_step` of a model computes, in few launches.

A layer is seven to nine kernels where the modules take sixty: the time of a step is then that of reading the weights. Nothing
in it waits for the GPU or makes a tensor whose shape depends on values, so that a CUDA graph can hold it. Every option of
the configuration is here; results differ from the modules' by rounding alone.

B rows, D model width, V vocabulary, S length of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm.attention import Attention
from vlm.cache import Cache
from vlm.config import Activation, DecoderConfig
from vlm.kernels.launch import attend, attend_media, contract, expand, project, route
from vlm.kernels.operands import Matrix, Norm
from vlm.moe import MoE
from vlm.rope import rotary_table

if TYPE_CHECKING:
    from vlm.writer import Writer


class DecodeStep:
    """`step(tokens, positions)` → logits; `cache` holds the prompts, and is written; `table` is of `rotary_rows`."""

    def __init__(self, model: Writer, cache: Cache, table: tuple[Tensor, Tensor]) -> None:
        self.decoder, self.cache, self.table = model.decoder, cache, table
        self.fusion = {} if cache.media is None else dict(model.fusion.items())

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens and where they go, [B] each → logits [B, V]."""
        decoder = self.decoder
        x = decoder.embedding(tokens)
        for index, layer in enumerate(decoder.layers):
            if str(index) in self.fusion:
                self._look(x, str(index))
            self._attend(x, Norm.of(layer.attention_norm), layer.attention, index, positions)
            feed_forward(x, Norm.of(layer.moe_norm), layer.moe, decoder.config.activation)
        return expand(x, Norm.of(decoder.norm), Matrix.linear(decoder.head_weight))[:, 0]

    def _attend(self, x: Tensor, norm: Norm, attention: Attention, index: int, positions: Tensor) -> None:
        qkv = project(x, norm, attention)
        window = self.decoder.config.window(index)
        y = attend(qkv, positions, self.table, self.cache.layers[index], attention, window)
        contract(y, Matrix.linear(attention.out.weight, bias=attention.out.bias), x)

    def _look(self, x: Tensor, name: str) -> None:
        """A gated block, as `vlm.fusion`."""
        block, sight, media = self.fusion[name], self.cache.sight, self.cache.media
        assert sight is not None and media is not None
        config = block.config
        q = expand(x, Norm.of(block.attention_norm), Matrix.linear(block.query.weight))
        y = attend_media(q, media[name], sight, Norm.of(block.query_norm))
        contract(y, Matrix.linear(block.out.weight), x, gate=block.attention_gate, sees=sight.sees)
        norm, up, _, down = block.ffn
        h = expand(x, Norm.of(norm), Matrix.linear(up.weight))
        sees = sight.sees if config.pass_without_image else None
        contract(h, Matrix.linear(down.weight), x, config.activation, gate=block.ffn_gate, sees=sees)


def feed_forward(x: Tensor, norm: Norm, moe: MoE, activation: Activation) -> None:
    """Add experts(norm x) to x, as `vlm.moe`."""
    y, choice = (x, None) if moe.router is None else route(x, norm, moe.router)
    norm = norm if choice is None else Norm.none()
    parts = [(moe.experts, choice)] + ([] if moe.shared is None else [(moe.shared, None)])
    hidden = [expand(y, norm, Matrix.experts(e.gate_up, e.gate_up_bias), chosen) for e, chosen in parts]
    for h, (e, chosen) in zip(hidden, parts, strict=True):
        contract(h, Matrix.experts(e.down, e.down_bias), x, activation, chosen)


def rotary_rows(length: int, config: DecoderConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0 to `length`, float32 [length, h] each, each as in a document that ends there."""
    places = torch.arange(length, device=device)[:, None]
    cos, sin = rotary_table(places, torch.zeros_like(places), config)
    return cos[:, 0, 0].contiguous(), sin[:, 0, 0].contiguous()
