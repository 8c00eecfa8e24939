"""One more token in each row, by the kernels of `vlm.kernels`: what `decode_step` of a model computes, in few launches.

A layer is five to seven kernels where the modules take sixty: the time of a step is then that of reading the weights. Nothing
in it waits for the GPU or makes a tensor whose shape depends on values, so that a CUDA graph can hold it. Every option of
the configuration is here; results differ from the modules' by rounding alone.

What is computed from weights or configuration, like the tables of rotary positions, is made anew for each generation: there is
nothing to be out of date.

B rows, D model width, V vocabulary, S length of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm.attention import Attention
from vlm.cache import Cache
from vlm.fusion import GatedCrossAttention
from vlm.kernels.launch import Matrix, Norm, attend, attend_media, contract, expand, project, route
from vlm.moe import MoE
from vlm.rope import rotary_table

if TYPE_CHECKING:
    from vlm.writer import Writer


class DecodeStep:
    """`step(tokens, positions)` → logits; `cache` is one that holds the prompts, and is written."""

    def __init__(self, model: Writer, cache: Cache) -> None:
        self.decoder, self.cache = model.decoder, cache
        self.fusion = {} if cache.media is None else dict(model.fusion.items())
        self.gates = {name: _gates(block, self.decoder.config.dim) for name, block in self.fusion.items()}
        places = torch.arange(cache.layers[0].keys.shape[2], device=cache.layers[0].keys.device)[:, None]
        cos, sin = rotary_table(places, torch.zeros_like(places), self.decoder.config)
        self.table = cos[:, 0, 0].contiguous(), sin[:, 0, 0].contiguous()

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
        block, sight = self.fusion[name], self.cache.sight
        config, (attention_gate, ffn_gate) = block.config, self.gates[name]
        q = expand(x, Norm.of(block.attention_norm), Matrix.linear(block.query.weight))
        y = attend_media(q, self.cache.media[name], sight, Norm.of(block.query_norm))
        contract(y, Matrix.linear(block.out.weight), x, scale=attention_gate, sees=sight.sees)
        norm, up, _, down = block.ffn
        h = expand(x, Norm.of(norm), Matrix.linear(up.weight, gated=config.ffn == "gated"), config.activation)
        sees = sight.sees if config.pass_without_image else None
        contract(h, Matrix.linear(down.weight), x, scale=ffn_gate, sees=sees)


def feed_forward(x: Tensor, norm: Norm, moe: MoE, activation) -> None:
    """Add experts(norm x) to x, as `vlm.moe`."""
    y, choice = (x, None) if moe.router is None else route(x, norm, moe.router)
    norm = norm if choice is None else Norm.none()
    parts = [(moe.experts, choice)] + ([] if moe.shared is None else [(moe.shared, None)])
    hidden = [expand(y, norm, Matrix.gate_up(experts), activation, chosen) for experts, chosen in parts]
    for h, (experts, chosen) in zip(hidden, parts, strict=True):
        contract(h, Matrix.down(experts), x, choice=chosen)


def _gates(block: GatedCrossAttention, dim: int) -> tuple[Tensor, Tensor]:
    """tanh of both gates, a number for each channel."""
    return tuple(gate.detach().tanh().expand(dim).contiguous() for gate in (block.attention_gate, block.ffn_gate))
