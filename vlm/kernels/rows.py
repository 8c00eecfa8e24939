"""Rows to the experts and back (Triton), for `vlm.moe` on a GPU with many experts a token: its plain path is the reference.

N tokens, k experts a token, S = N·k pairs, D width. A program copies or adds whole rows, so that the memory is read and written
in long runs, however the rows are ordered. Compiled code takes them as they are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # numbers of a row at a time


@triton.jit
def _take(x, order, out, width, top_k: tl.constexpr, block: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    token = tl.load(order + pair) // top_k
    row = tl.load(x + token * width + column, mask=column < width)
    tl.store(out + pair * width + column, row, mask=column < width)


@triton.jit
def _sum(rows, place, out, width, top_k: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for pair in tl.static_range(top_k):
        at = tl.load(place + token * top_k + pair) * width + column
        total += tl.load(rows + at, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out + token * width + column, total, mask=column < width)


@torch.library.custom_op("vlm::take_rows", mutates_args=())
def take_rows(x: Tensor, order: Tensor, top_k: int) -> Tensor:
    """[N, D] tokens, [S] pairs → [S, D]: row i is that of token order[i] // k."""
    x = x.contiguous()
    out = x.new_empty(len(order), x.shape[1])
    grid = (len(order), triton.cdiv(x.shape[1], _BLOCK))
    with torch.cuda.device_of(x):
        _take[grid](x, order, out, x.shape[1], top_k=top_k, block=_BLOCK, num_warps=4)
    return out


@take_rows.register_fake
def _(x: Tensor, order: Tensor, top_k: int) -> Tensor:
    return x.new_empty(len(order), x.shape[1])


@torch.library.custom_op("vlm::sum_rows", mutates_args=())
def sum_rows(rows: Tensor, place: Tensor, top_k: int) -> Tensor:
    """[S, D], and where in them the pairs of each token are [S] → their sums [N, D] in float32, added in the pairs' order."""
    rows = rows.contiguous()
    out = torch.empty(len(rows) // top_k, rows.shape[1], dtype=torch.float32, device=rows.device)
    grid = (len(out), triton.cdiv(rows.shape[1], _BLOCK))
    with torch.cuda.device_of(rows):
        _sum[grid](rows, place, out, rows.shape[1], top_k=top_k, block=_BLOCK, num_warps=4)
    return out


@sum_rows.register_fake
def _(rows: Tensor, place: Tensor, top_k: int) -> Tensor:
    return rows.new_empty(len(rows) // top_k, rows.shape[1], dtype=torch.float32)
