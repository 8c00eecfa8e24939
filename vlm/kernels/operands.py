"""What the kernels work on: `Norm` hides which kind a norm is, `Matrix` how a weight lies, `Choice` that there are experts.

B rows, J experts a row, E experts, K features in, N features out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """`kind` as the kernels name it; weight and bias [K] where it has them."""

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def none(cls) -> Norm:
        return cls("none", None, None, 0.0)

    @classmethod
    def of(cls, module: nn.RMSNorm | nn.LayerNorm | nn.Identity) -> Norm:
        """An RMS norm, a layer norm, or the identity."""
        if isinstance(module, nn.Identity):
            return cls.none()
        kind = "rms" if isinstance(module, nn.RMSNorm) else "layer"
        return cls(kind, module.weight, getattr(module, "bias", None), module.eps)


@dataclass(frozen=True)
class Matrix:
    """E weights that lie alike, K to N features each: strides to the next expert, feature out and feature in."""

    weight: Tensor
    bias: Tensor | None
    size: tuple[int, int]
    strides: tuple[int, int, int]

    @classmethod
    def linear(cls, weight: Tensor, bias: Tensor | None = None) -> Matrix:
        """[N, K], as of `nn.Linear`."""
        return cls(weight, bias, (weight.shape[1], weight.shape[0]), (0, weight.stride(0), weight.stride(1)))

    @classmethod
    def experts(cls, weight: Tensor, bias: Tensor | None) -> Matrix:
        """[E, K, N], as of `vlm.moe.Experts`."""
        (_, k, n), (stride_e, stride_k, stride_n) = weight.shape, weight.stride()
        return cls(weight, bias, (k, n), (stride_e, stride_n, stride_k))


@dataclass(frozen=True)
class Choice:
    """Experts of each row, int32 [B, J], their weights [B, J] in float32, and of how many they were chosen."""

    ids: Tensor
    weights: Tensor
    num_experts: int

    @property
    def by_pair(self) -> bool:
        """Are there fewer (row, expert) pairs than experts, so that the kernels go through the pairs?"""
        return self.ids.numel() <= self.num_experts

    @property
    def slots(self) -> int:
        return min(self.ids.numel(), self.num_experts)
