"""The non-linearities that a feed-forward may have, by the names of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from vlm.config import Activation

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class Act(nn.Module):
    """One of them as a module; `gated`: of the first half of the features, times the second (Shazeer, 2020)."""

    def __init__(self, name: Activation, *, gated: bool = False) -> None:
        super().__init__()
        self.name, self.gated = name, gated

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return ACTIVATIONS[self.name](x)
        gate, up = x.chunk(2, dim=-1)
        return ACTIVATIONS[self.name](gate) * up

    def extra_repr(self) -> str:
        return f"{self.name!r}, gated={self.gated}"
