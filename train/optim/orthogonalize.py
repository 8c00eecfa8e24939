"""The nearest orthogonal matrix, nearly: all singular values of an update brought towards 1 by products alone.

    X ← (a I + b A + c A²) X,  A = X Xᵀ            (Newton-Schulz, quintic; Jordan et al., 2024)

Five rounds with these coefficients leave singular values between about 0.7 and 1.2, which trains as well as exact ones and is
far cheaper. bfloat16 is enough, and is used on GPUs and on CPUs that multiply it; elsewhere float32. Both products of a round
with a matrix's own transpose are symmetric: on a GPU a kernel computes half of each (symmetric_kernel.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
ROUNDS = 5
_TINY = 1e-7  # keeps a matrix of zeros from being divided by its norm


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it."""
    if device.type == "cpu" and not _multiplies_bfloat16():
        return torch.float32
    return torch.bfloat16


def _multiplies_bfloat16() -> bool:
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def orthogonalize(x: Tensor) -> Tensor:
    """[K, m, n] → the same shape, singular values near 1, in the precision of `x`. m ≤ n is the cheaper way round."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize(x.mT.contiguous()).mT
    a, b, c = COEFFICIENTS
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _TINY)
    for _ in range(ROUNDS):
        gram = symmetric_product(x)
        x = symmetric_product(gram, c, b, a) @ x
    return x


def symmetric_product(x: Tensor, scale: float = 1.0, self_scale: float = 0.0, diagonal: float = 0.0) -> Tensor:
    """[K, m, n] → scale · x xᵀ + self_scale · x + diagonal · I, [K, m, m]; `x` is symmetric where it is added."""
    if x.is_cuda and x.dtype == torch.bfloat16:
        from train.optim.symmetric_kernel import symmetric_product as by_halves

        return by_halves(x, scale, self_scale, diagonal)
    y = x @ x.mT if not self_scale else torch.baddbmm(x, x, x.mT, beta=self_scale, alpha=scale)
    if diagonal:
        y.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    return y
