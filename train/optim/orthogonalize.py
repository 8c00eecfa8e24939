"""The nearest orthogonal matrix, nearly: all singular values of an update brought towards 1 by products alone.

    X ← a X + (b A + c A²) X,  A = X Xᵀ            (Newton-Schulz, quintic; Jordan et al., 2024)

Five rounds with these coefficients leave singular values between about 0.7 and 1.2, which trains as well as exact ones and is
far cheaper. bfloat16 is enough, and is used wherever the hardware multiplies it; elsewhere float32.
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
    """[K, m, n], m ≤ n or not → the same shape, singular values near 1, in the precision of `x`."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _TINY)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
