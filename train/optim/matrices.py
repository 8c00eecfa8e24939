"""The matrices of a model as Muon takes them: stacked experts one by one, fused projections by their parts, kernels flattened.

An orthogonal update treats all directions of a matrix alike. Queries, keys and values that only share a tensor are matrices of
their own, as are an expert's gate and up projections. Not taken, and left to AdamW: token tables and heads, whose rows are
learnt one by one (Jordan et al., 2024), routers, which are such heads over experts, and kernels that mix no channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.layers import GluMlp
from torch import Tensor, nn

from vlm.decoder import TextDecoder
from vlm.fusion import GatedCrossAttention
from vlm.moe import Router

# The last words of a parameter's name → its parts, and the dimension they lie along.
_FUSED = {"qkv.weight": (3, 0), "in_proj_weight": (3, 0), "key_value.weight": (2, 0), "kv.weight": (2, 0), "gate_up": (2, 2)}


@dataclass(frozen=True)
class Matrix:
    """A parameter [..., A, C], or a kernel [A, C, h, w], that is K matrices [m, n] of one shape, m ≤ n."""

    weight: nn.Parameter
    parts: int = 1  # that lie side by side
    dim: int = 0  # along this dimension

    @property
    def shape(self) -> tuple[int, int, int]:
        """K, m, n."""
        sides = self._sides
        return math.prod(self._flat(self.weight).shape[:-2]) * self.parts, min(sides), max(sides)

    @property
    def fans(self) -> tuple[int, int]:
        """How many numbers it reads and how many it writes: it is [out, in], and stacked experts are [in, out]."""
        rows, columns = self._sides
        return (rows, columns) if self.weight.ndim == 3 else (columns, rows)

    @property
    def _sides(self) -> tuple[int, int]:
        *stacked, rows, columns = self._flat(self.weight).shape
        along_rows = self.dim == len(stacked)
        return (rows // self.parts, columns) if along_rows else (rows, columns // self.parts)

    @property
    def scale(self) -> float:
        """What an orthogonal update is multiplied with so that its root mean square is 0.2, about that of AdamW's: AdamW's
        rates and weight decay then carry over (Liu et al., 2025, section 2.2)."""
        return 0.2 * self.shape[2] ** 0.5

    def split(self, update: Tensor) -> Tensor:
        """A tensor of the weight's shape → [K, m, n]; a view of it where it is not of several parts."""
        flat = self._flat(update)
        parts = flat if self.parts == 1 else torch.stack(flat.chunk(self.parts, dim=self.dim))
        parts = parts.reshape(-1, *parts.shape[-2:])
        return parts if parts.shape[1] <= parts.shape[2] else parts.mT

    def join(self, stack: Tensor) -> Tensor:
        """[K, m, n] → the weight's shape, likewise."""
        flat = self._flat(self.weight)
        rows = flat.shape[-2] // (self.parts if self.dim == flat.ndim - 2 else 1)
        parts = stack if stack.shape[1] == rows else stack.mT
        if self.parts > 1:
            parts = torch.cat(parts.unflatten(0, (self.parts, -1)).unbind(), dim=self.dim + 3 - flat.ndim)
        return parts.reshape(self.weight.shape)

    @staticmethod
    def _flat(tensor: Tensor) -> Tensor:
        return tensor.flatten(1) if tensor.ndim == 4 else tensor


def matrices(part: nn.Module) -> Iterator[Matrix]:
    """Every parameter of two dimensions or more, but those named above; tables of positions are for the caller to leave out."""
    apart = {id(p) for p in _learnt_by_rows(part)}
    gated = {id(weight) for weight in _gated(part)}
    for name, parameter in part.named_parameters():
        if id(parameter) in apart or not _mixes(parameter):
            continue
        fused = next((split for end, split in _FUSED.items() if name == end or name.endswith((f".{end}", f"_{end}"))), (1, 0))
        parts, dim = (2, 0) if id(parameter) in gated else fused
        yield Matrix(parameter, parts, dim)


def _mixes(parameter: Tensor) -> bool:
    """Is it a matrix of more than one row and column, or a stack of them; a kernel over several channels?"""
    if parameter.ndim not in (2, 3, 4):
        return False
    sides = (parameter.shape[0], parameter[0].numel()) if parameter.ndim == 4 else parameter.shape[-2:]
    return min(sides) > 1 and not (parameter.ndim == 4 and parameter.shape[1] == 1)


def _learnt_by_rows(part: nn.Module) -> Iterator[Tensor]:
    for module in part.modules():
        if isinstance(module, (nn.Embedding, Router)):
            yield module.weight
        if isinstance(module, TextDecoder):
            yield module.head_weight


def _gated(part: nn.Module) -> Iterator[Tensor]:
    """Projections that hold gate and up one above the other."""
    for module in part.modules():
        if isinstance(module, GatedCrossAttention) and module.config.ffn == "gated":
            yield module.ffn[1].weight
        if isinstance(module, GluMlp):
            yield module.fc1.weight
