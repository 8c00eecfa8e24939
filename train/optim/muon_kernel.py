"""Muon's work on single numbers (Triton), for `train.optim.muon` on a GPU: one reading of memory before the matrices are made
orthogonal and one after. In float32, rounded once at the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048  # numbers a program


@triton.jit
def _ahead(gradient, momentum, out, left_out, count, mu, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    g = tl.load(gradient + at, mask=inside).to(tl.float32)
    m = mu * tl.load(momentum + at, mask=inside).to(tl.float32) + g
    tl.store(momentum + at, m.to(momentum.dtype.element_ty), mask=at < tl.where(tl.load(left_out) == 0, count, 0))
    tl.store(out + at, (g + mu * m).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _apply(weight, update, left_out, count, decay, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < tl.where(tl.load(left_out) == 0, count, 0)
    w = tl.load(weight + at, mask=inside).to(tl.float32)
    u = tl.load(update + at, mask=inside).to(tl.float32)
    tl.store(weight + at, (decay * w + size * u).to(weight.dtype.element_ty), mask=inside)


def ahead_(gradient: Tensor, momentum: Tensor, mu: float, left_out: Tensor) -> Tensor:
    """m ← μ m + g in its place, and g + μ m in bfloat16; both lie alike in memory. Where `left_out` bool [] is true the
    momentum stays."""
    out = torch.empty_like(momentum, dtype=torch.bfloat16)
    count = momentum.numel()
    with torch.cuda.device_of(momentum):
        grid = (triton.cdiv(count, _BLOCK),)
        _ahead[grid](gradient, momentum, out, left_out.view(torch.uint8), count, mu, block=_BLOCK, num_warps=8)
    return out


def apply_(weight: Tensor, update: Tensor, decay: float, size: float, left_out: Tensor) -> None:
    """w ← decay · w + size · u in its place; both lie alike in memory."""
    count = weight.numel()
    with torch.cuda.device_of(weight):
        grid = (triton.cdiv(count, _BLOCK),)
        _apply[grid](weight, update, left_out.view(torch.uint8), count, decay, size, block=_BLOCK, num_warps=8)
