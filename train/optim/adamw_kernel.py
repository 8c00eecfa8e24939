"""One step of AdamW for one tensor (Triton), for `train.optim.adamw` on a GPU: torch's own is the reference.

In float32, rounded once at the end to the precision of each tensor: 14 bytes of memory traffic a bf16 weight.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048  # numbers a program


@triton.jit
def _kernel(
    weight, gradient, mean, square, step, left_out, count, lr, beta1, beta2, eps, decay, log1, log2, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < tl.where(tl.load(left_out) == 0, count, 0)
    number = tl.load(step)
    correct1, correct2 = 1 - tl.exp2(number * log1), 1 - tl.exp2(number * log2)
    w = tl.load(weight + at, mask=inside).to(tl.float32)
    g = tl.load(gradient + at, mask=inside).to(tl.float32)
    m = tl.load(mean + at, mask=inside).to(tl.float32)
    v = tl.load(square + at, mask=inside).to(tl.float32)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    w = w * (1 - lr * decay) - lr * (m / correct1) / (tl.sqrt(v / correct2) + eps)
    tl.store(weight + at, w.to(weight.dtype.element_ty), mask=inside)
    tl.store(mean + at, m.to(mean.dtype.element_ty), mask=inside)
    tl.store(square + at, v.to(square.dtype.element_ty), mask=inside)


def adamw_(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    left_out: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """A step of a weight and its moments, in their place; all four lie alike in memory. `step` float32 [] is its number, from
    1; where `left_out` bool [] is true nothing is written."""
    count, logs = weight.numel(), [math.log2(beta) if beta else -math.inf for beta in betas]
    grid = (triton.cdiv(count, _BLOCK),)
    with torch.cuda.device_of(weight):
        _kernel[grid](
            weight,
            gradient,
            mean,
            square,
            step,
            left_out.view(torch.uint8),
            count,
            lr,
            *betas,
            eps,
            weight_decay,
            *logs,
            block=_BLOCK,
            num_warps=8,
        )
