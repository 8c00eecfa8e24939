"""Self-attention of the decoder: rotary positions, grouped queries, document masks, and a cache to decode with.

B rows, T query tokens, S key tokens, H query heads, K key heads, h head size, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.cache import LayerCache
from vlm.config import DecoderConfig
from vlm.rope import RotaryTable, rotate


def document_mask(document: Tensor) -> Tensor:
    """[B, T] document numbers → bool [B, 1, T, T]: may a query see a key. Causal, and inside one document only."""
    length = document.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def window_mask(mask: Tensor, place: Tensor, window: int | None) -> Tensor:
    """`mask` [B, 1, T, S] without the keys further back than `window` tokens; `place` [B, T] is each query's own key."""
    if window is None:
        return mask
    keys = torch.arange(mask.shape[-1], device=mask.device)
    return mask & (keys > place[:, None, :, None] - window)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[B, H, T, h] queries, [B, K, S, h] keys and values, bool [B, 1, T, S] → [B, H, T, h].

    On a GPU keys and values are written out for each query head: with a mask and shared heads PyTorch has no kernel there but
    the one that holds all T x S scores (16 GiB for 8,192 tokens and 16 heads, where this takes 0.25).
    """
    shared = q.shape[1] // k.shape[1]
    if shared > 1 and q.is_cuda:
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


class Attention(nn.Module):
    """Grouped-query self-attention (Ainslie et al., 2023)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_size = config.num_heads, config.num_kv_heads, config.head_size
        self.shifted, self.clip = config.shifted_kv_heads, config.clip_qkv
        wide, narrow, bias = self.num_heads * self.head_size, self.num_kv_heads * self.head_size, config.attention_bias
        self.query = nn.Linear(config.dim, wide, bias=bias)
        self.key = nn.Linear(config.dim, narrow, bias=bias)
        self.value = nn.Linear(config.dim, narrow, bias=bias)
        self.out = nn.Linear(wide, config.dim, bias=bias)
        self.norm_kind = config.query_key_norm
        if self.norm_kind != "none":
            per_head = self.norm_kind == "head"
            self.query_norm = nn.RMSNorm(self.head_size if per_head else wide, eps=config.norm_eps)
            self.key_norm = nn.RMSNorm(self.head_size if per_head else narrow, eps=config.norm_eps)

    def forward(self, x: Tensor, rotary: RotaryTable, mask: Tensor, first: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] → [B, T, D]. `mask` is bool [B, 1, T, S]; with a cache, S is the cache's length. `first` is bool [B, T]:
        does a token begin its document."""
        q, k, v = self._project(x)
        if self.shifted:
            k = torch.cat((k[:, : -self.shifted], self._previous(k[:, -self.shifted :], first, cache)), dim=1)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.update(k, v)
        y = grouped_attention(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, h], keys and values [B, K, T, h], before rotation."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.norm_kind == "width":
            q, k = self.query_norm(q), self.key_norm(k)
        if self.clip is not None:
            q, k, v = (t.clamp(-self.clip, self.clip) for t in (q, k, v))
        q, k, v = (t.unflatten(-1, (-1, self.head_size)) for t in (q, k, v))
        if self.norm_kind == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    @staticmethod
    def _previous(keys: Tensor, first: Tensor, cache: LayerCache | None) -> Tensor:
        """Keys [B, s, T, h] of the token before each; a document's first token keeps its own."""
        if cache is not None:
            return cache.previous(keys)
        return torch.where(first[:, None, :, None], keys, F.pad(keys, (0, 0, 1, 0))[:, :, :-1])
