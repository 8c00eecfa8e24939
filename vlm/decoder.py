"""The text decoder: pre-norm blocks of attention and experts. It knows nothing of images.

What joins it to vision is `before_layer`, a function the caller may pass that acts on the residual stream before a layer;
without it the decoder is a plain language model.

B rows, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.attention import BLOCK_HEAD_SIZES, Attention, Mask, block_mask, document_mask, window_mask
from vlm.batch import Batch
from vlm.cache import Cache, LayerCache
from vlm.config import DecoderConfig, RopeScaling
from vlm.moe import MoE, RouterStats
from vlm.rope import RotaryTable, rotary_table
from vlm.writer import Writer

BeforeLayer = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Hidden:
    """The decoder's last states [B, T, D], normed and ready for the head, and the routers' sums: none without routers, nor with
    a cache."""

    states: Tensor
    router: RouterStats | None


def positions_in(document: Tensor) -> Tensor:
    """[B, T] document numbers → each token's place in its document, from 0."""
    place = torch.arange(document.shape[1], device=document.device).expand_as(document)
    begins = torch.cat((torch.ones_like(document[:, :1], dtype=torch.bool), document[:, 1:] != document[:, :-1]), dim=1)
    return place - torch.where(begins, place, 0).cummax(dim=1).values


class DecoderLayer(nn.Module):
    """x + attention(norm x), then x + experts(norm x)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.moe_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.moe = MoE(config, layer)

    def forward(
        self,
        x: Tensor,
        rotary: RotaryTable,
        mask: Mask,
        first: Tensor,
        real: Tensor | None,
        sees: Tensor,
        cache: LayerCache | None,
    ) -> tuple[Tensor, RouterStats | None]:
        x = x + self.attention(self.attention_norm(x), rotary, mask, first, cache)
        y, stats = self.moe(self.moe_norm(x), real, sees)
        return x + y, stats


class TextDecoder(Writer, nn.Module):
    """`decoder(tokens)` → logits [B, T, V]. Weights are made by `reset_parameters`, also on a model built on meta."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Matrices normal of deviation fan_in^-½, norms at 1, projections into the residual stream at 0.

        So each token's stream starts as its own embedding, and each block adds to it as it learns.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith(("out.weight", "down")):
                nn.init.zeros_(parameter)
            else:
                fan_in = parameter.shape[-2] if name.endswith("gate_up") else parameter.shape[-1]
                nn.init.normal_(parameter, std=fan_in**-0.5)
        for buffer in self.buffers():  # the routers' balance
            nn.init.zeros_(buffer)

    def set_rope(self, theta: float | None = None, scaling: RopeScaling | None = None) -> None:
        """Other rotary positions from here on: a base, a scaling, or both; `None` keeps what is."""
        self.config = dataclasses.replace(
            self.config, rope_theta=theta or self.config.rope_theta, rope_scaling=scaling or self.config.rope_scaling
        )

    def forward(self, tokens: Tensor, positions: Tensor | None = None, document: Tensor | None = None) -> Tensor:
        """[B, T] ids → logits [B, T, V]; each row is one document unless said otherwise."""
        return self.logits(self.hidden(tokens, positions, document).states)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        *,
        packed: bool | None = None,
        sees: Tensor | None = None,
        cache: Cache | None = None,
        before_layer: BeforeLayer | None = None,
    ) -> Hidden:
        """Everything but the head. `packed`: may a row hold several documents, or padding before its last token; by default
        where `document` is given. `sees` [B, T] only splits the router's statistics. With a `cache` there are none, each row
        is one document, and `packed=False` says that these are its first tokens."""
        fresh = packed is False or (packed is None and document is None and cache is None)
        document = torch.zeros_like(tokens) if document is None else document
        positions = positions_in(document) if positions is None else positions
        sees = torch.zeros_like(tokens, dtype=torch.bool) if sees is None else sees
        rotary = rotary_table(positions, document, self.config)
        keys = None if cache is None else cache.place(positions)
        masks = {window: self._mask(window, document, positions, fresh, keys) for window in self.config.windows}
        x, stats = self.embedding(tokens), []
        first, real = positions == 0, document >= 0 if cache is None else None
        for index, layer in enumerate(self.layers):
            if before_layer is not None:
                x = before_layer(index, x)
            layer_cache = None if cache is None else cache.layers[index]
            x, s = layer(x, rotary, masks[self.config.window(index)], first, real, sees, layer_cache)
            stats += [s] if s is not None else []
        return Hidden(self.norm(x), RouterStats.stack(stats) if stats else None)

    def _mask(self, window: int | None, document: Tensor, positions: Tensor, fresh: bool, keys: Tensor | None) -> Mask:
        """Which keys a query may see in layers of this window; `keys` bool [B, 1, T, S] are those of a cache."""
        length = document.shape[1]
        if fresh and (window is None or window >= length):
            return None
        if keys is not None:
            return window_mask(keys, positions, window)
        compiled = self.layers[0]._compiled_call_impl is not None  # vlm/compile.py: block masks are for such layers alone
        if compiled and document.is_cuda and self.config.head_size in BLOCK_HEAD_SIZES:
            return block_mask(document, window)
        place = torch.arange(length, device=document.device).expand_as(document)
        return window_mask(document_mask(document), place, window)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]"""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, states: Tensor) -> Tensor:
        """[..., D] → [..., V]"""
        return F.linear(states, self.head_weight)

    @property
    def decoder(self) -> TextDecoder:  # type: ignore[override]
        """Itself, as `Writer` wants one."""
        return self

    def states(self, batch: Batch) -> Tensor:
        return self.hidden(batch.tokens, batch.positions, batch.document, packed=batch.extent.packed).states

    def read_prompts(self, batch: Batch, cache: Cache, **vision: Any) -> Tensor:
        """`vision` here and below: `sees` and `before_layer` of `hidden`."""
        states = self.hidden(batch.tokens, batch.positions, batch.document, packed=False, cache=cache, **vision).states
        rows = torch.arange(len(states), device=states.device)
        return self.logits(states[rows, batch.lengths - 1])

    def decode_step(self, tokens: Tensor, positions: Tensor, cache: Cache, **vision: Any) -> Tensor:
        states = self.hidden(tokens[:, None], positions[:, None], cache=cache, **vision).states
        return self.logits(states[:, 0])
