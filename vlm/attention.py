"""Self-attention of the decoder: rotary positions, grouped queries, document masks, and a cache to decode with.

B rows, T query tokens, S key tokens, H query heads, K key heads, h head size, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.cache import LayerCache
from vlm.config import DecoderConfig


def document_mask(document: Tensor) -> Tensor:
    """[B, T] document numbers → bool [B, 1, T, T]: may a query see a key. Causal, and inside one document only."""
    length = document.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def rotary_table(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """[B, T] positions → cosines and sines, float32 [B, 1, T, h], of RoPE (Su et al., 2021), halves layout as in Llama."""
    frequency = theta ** (-torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32) / head_size)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + h/2) of [B, H, T, h] by its position's angle."""
    cos, sin = table
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query self-attention (Ainslie et al., 2023), no biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_size = config.num_heads, config.num_kv_heads, config.head_size
        self.shifted = config.shifted_kv_heads
        self.query = nn.Linear(config.dim, self.num_heads * self.head_size, bias=False)
        self.key = nn.Linear(config.dim, self.num_kv_heads * self.head_size, bias=False)
        self.value = nn.Linear(config.dim, self.num_kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(self.num_heads * self.head_size, config.dim, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, first: Tensor, cache: LayerCache | None = None
    ) -> Tensor:
        """[B, T, D] → [B, T, D]. `mask` is bool [B, 1, T, S]; with a cache, S is the cache's length. `first` is bool [B, T]:
        does a token begin its document."""
        q = rotate(self._heads(self.query(x), self.num_heads), rotary)
        k = self._heads(self.key(x), self.num_kv_heads)
        if self.shifted:
            k = torch.cat((k[:, : -self.shifted], self._previous(k[:, -self.shifted :], first, cache)), dim=1)
        k = rotate(k, rotary)
        v = self._heads(self.value(x), self.num_kv_heads)
        if cache is not None:
            k, v = cache.update(k, v)
        grouped = self.num_heads != self.num_kv_heads
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).flatten(2))

    @staticmethod
    def _previous(keys: Tensor, first: Tensor, cache: LayerCache | None) -> Tensor:
        """Keys [B, s, T, h] of the token before each; a document's first token keeps its own."""
        if cache is not None:
            return cache.previous(keys)
        return torch.where(first[:, None, :, None], keys, F.pad(keys, (0, 0, 1, 0))[:, :, :-1])

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_size)).transpose(1, 2)
