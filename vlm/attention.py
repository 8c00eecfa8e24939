"""Self-attention of the decoder: rotary positions, grouped queries, and a cache to decode with.

Which keys a query may see comes in three forms, of which the cheapest that is right is used:

- `None`: all keys up to its own, by a causal kernel. Right where each row is one document with its padding behind it: a real
  token sees no padding, and what padding sees is not used.
- bool [B, 1, T, S]: the reference, for packed documents, sliding windows and a cache. Its cost is that of all T x S scores.
- `BlockMask` (Dong et al., 2024), for packed documents and windows on a GPU whose blocks are compiled: blocks of 128 x 128
  scores that hold nothing to see are passed over, so the cost is that of the documents' own lengths, squared.

B rows, T query tokens, S key tokens, H query heads, K key heads, h head size, D model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlm.cache import LayerCache
from vlm.config import DecoderConfig
from vlm.rope import RotaryTable, rotate

if TYPE_CHECKING:  # it brings a computer algebra system: half a second
    from torch.nn.attention.flex_attention import BlockMask

Mask = "Tensor | BlockMask | None"

BLOCK_HEAD_SIZES = (16, 32, 64, 128, 256)  # what the kernel of block masks takes
_BLOCK = 128  # tokens: side of a block of scores
_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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


def block_mask(document: Tensor, window: int | None) -> BlockMask:
    """`window_mask(document_mask(document), ...)` as blocks, found from the first and last document of each block alone."""
    from torch.nn.attention.flex_attention import BlockMask

    def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = query >= key if window is None else (query >= key) & (query - key < window)
        return near & (document[row, query] == document[row, key])

    rows, length = document.shape
    count = -(-length // _BLOCK)
    last = torch.where(document < 0, length, document)  # padding stands behind, and so that blocks' ranges stay narrow
    padded = F.pad(last, (0, count * _BLOCK - length), value=length).view(rows, count, _BLOCK)
    low, high = padded.amin(dim=-1), padded.amax(dim=-1)
    one = low == high  # a block of one document
    index = torch.arange(count, device=document.device)
    back = index[:, None] - index  # blocks from the queries' to the keys'
    reach = (low[:, :, None] <= high[:, None]) & (high[:, :, None] >= low[:, None]) & (back >= 0)
    whole = one[:, :, None] & one[:, None] & (low[:, :, None] == low[:, None]) & (back > 0)
    if window is not None:
        reach &= (back - 1) * _BLOCK + 1 < window
        whole &= (back + 1) * _BLOCK - 1 < window
    some, every = _ordered(reach & ~whole), _ordered(whole)
    return BlockMask.from_kv_blocks(*some, *every, BLOCK_SIZE=_BLOCK, mask_mod=sees, seq_lengths=(length, length))


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, n, n] → how many of each row of blocks, [B, 1, n], and their numbers, first ones first, [B, 1, n, n]; int32."""
    chosen = blocks[:, None].to(torch.int32)
    return chosen.sum(dim=-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).to(torch.int32)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """[B, H, T, h] queries, [B, K, S, h] keys and values → [B, H, T, h]; `mask` is one of the forms above."""
    if mask is None:
        return _causal_attention(q, k, v)
    if not isinstance(mask, Tensor):
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return _masked_attention(q, k, v, mask)


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.is_cuda and q.dtype not in (torch.float16, torch.bfloat16):
        k, v = _for_each_query_head(q, k, v)
    grouped = q.shape[1] != k.shape[1]
    if not (q.is_cuda and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    # cuDNN's kernel is the fastest, but plans for each new shape, and its gradients cannot be repeated: so, for training only
    with sdpa_kernel(_KERNELS[torch.are_deterministic_algorithms_enabled() :], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    if q.is_cuda:
        k, v = _for_each_query_head(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _for_each_query_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values written out. With shared heads, and a mask or float32, PyTorch has no kernel on a GPU but the one that
    holds all T x S scores (16 GiB for 8,192 tokens and 16 heads, where this takes 0.25)."""
    shared = q.shape[1] // k.shape[1]
    return (k, v) if shared == 1 else (k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1))


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

    def forward(self, x: Tensor, rotary: RotaryTable, mask: Mask, first: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] → [B, T, D]. With a cache a bool `mask` is as wide as that, and `None` means that the tokens are its first.
        `first` is bool [B, T]: does a token begin its document."""
        q, k, v = self._project(x)
        if self.shifted:
            k = torch.cat((k[:, : -self.shifted], self._previous(k[:, -self.shifted :], first, cache)), dim=1)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            kept = cache.update(k, v)
            k, v = (k, v) if mask is None else kept
        y = grouped_attention(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, h], keys and values [B, K, T, h], before rotation."""
        q, k, v = self._products(x)
        if self.norm_kind == "width":
            q, k = self.query_norm(q), self.key_norm(k)
        if self.clip is not None:
            q, k, v = (t.clamp(-self.clip, self.clip) for t in (q, k, v))
        q, k, v = (t.unflatten(-1, (-1, self.head_size)) for t in (q, k, v))
        if self.norm_kind == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _products(self, x: Tensor) -> tuple[Tensor, ...]:
        """The three as one product where blocks are compiled: then there is one gradient by x to be written, not three."""
        parts = (self.query, self.key, self.value)
        if not torch.compiler.is_compiling():
            return tuple(part(x) for part in parts)
        bias = torch.cat([part.bias for part in parts]) if self.query.bias is not None else None
        y = F.linear(x, torch.cat([part.weight for part in parts]), bias)
        q, k, v = y.split([part.out_features for part in parts], dim=-1)
        return q, k, v.clone()  # as a view it would keep the whole product until the backward pass

    @staticmethod
    def _previous(keys: Tensor, first: Tensor, cache: LayerCache | None) -> Tensor:
        """Keys [B, s, T, h] of the token before each; a document's first token keeps its own."""
        if cache is not None:
            return cache.previous(keys)
        return torch.where(first[:, None, :, None], keys, F.pad(keys, (0, 0, 1, 0))[:, :, :-1])
