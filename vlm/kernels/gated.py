"""The gradient of h = weight · act(gate) · up, which stands between an expert's two products (Triton), for `vlm.moe` on a GPU.

By gate, up and weight, and h itself once more for the gradient of the product behind it, in one reading of all three: the
compiler takes two. A program has a row.

S rows, F width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlm.config import Activation

_BLOCK = 2048  # numbers of a row at a time


@triton.jit
def _with_slope(x, ACT: tl.constexpr):
    """float32 → the activation and its derivative; the names are those of `vlm.activation`."""
    if ACT == "relu":
        y, slope = tl.maximum(x, 0.0), tl.where(x > 0, 1.0, 0.0)
    elif ACT == "gelu":
        s = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        y, slope = x * s, s + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif ACT == "gelu_tanh":
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        y, slope = x * s, s * (1 + x * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * x * x))
    else:
        s = tl.sigmoid(x)
        y, slope = x * s, s * (1 + x * (1 - s))
    return y, slope


@triton.jit
def _kernel(
    y, weights, grad, grad_y, h, grad_weights, width: tl.constexpr, ACT: tl.constexpr, HIDDEN: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weights + row).to(tl.float32)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, width, block):
        column = start + tl.arange(0, block)
        inside = column < width
        gate = tl.load(y + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(y + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32)
        act, slope = _with_slope(gate, ACT)
        total += g * act * up
        g *= weight
        if HIDDEN:
            tl.store(h + row * width + column, (act * up * weight).to(h.dtype.element_ty), mask=inside)
        tl.store(grad_y + row * 2 * width + column, (g * up * slope).to(grad_y.dtype.element_ty), mask=inside)
        tl.store(grad_y + row * 2 * width + width + column, (g * act).to(grad_y.dtype.element_ty), mask=inside)
    tl.store(grad_weights + row, tl.sum(total, 0).to(grad_weights.dtype.element_ty))


@torch.library.custom_op("vlm::gated_gradient", mutates_args=())
def gated_gradient(y: Tensor, weights: Tensor, grad: Tensor, activation: str, hidden: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gate and up side by side [S, 2 F], weights [S], and the gradient by h [S, F] → the gradient by gate and up [S, 2 F],
    h [S, F] (if not `hidden`, [0, F]), the gradient by the weights [S]."""
    y, grad = y.contiguous(), grad.contiguous()
    out = torch.empty_like(y), grad.new_empty(len(grad) * hidden, grad.shape[1]), torch.empty_like(weights)
    if len(y):
        block = min(_BLOCK, triton.next_power_of_2(grad.shape[1]))
        with torch.cuda.device_of(y):
            _kernel[(len(y),)](
                y, weights, grad, *out, grad.shape[1], ACT=activation, HIDDEN=hidden, block=block, num_warps=8
            )  # fmt: skip
    return out


@gated_gradient.register_fake
def _(y: Tensor, weights: Tensor, grad: Tensor, activation: Activation, hidden: bool) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), grad.new_empty(len(grad) if hidden else 0, grad.shape[1]), torch.empty_like(weights)
