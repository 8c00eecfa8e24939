"""An exponential moving average of the weights that learn (Polyak and Juditsky, 1992), kept beside them.

    θ̄ ← d θ̄ + (1 - d) θ,   d = min(optim.ema, (1 + n) / (10 + n))   at the n-th step, from 0

While d grows, the average is over about the last ninth of the steps so far, so the weights that a stage began with are soon
out of it. It is float32 whatever the weights are, since bf16 would lose most of what a step adds: 4 bytes a weight, on the
weight's device. Every rank keeps the same one, as every rank has the same weights. Buffers have no average: a router's bias is
the model's last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_AHEAD = 10  # d at the first step is one of so many


class Average:
    """Of the parameters of `model` that learn, under the model's own names."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().to(torch.float32, copy=True) for name, p in self._learning.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        decay = min(self.decay, (1 + self.steps) / (_AHEAD + self.steps))
        weights: list[Tensor] = list(self._learning.values())
        averages = list(self.weights.values())
        if all(weight.dtype == torch.float32 for weight in weights):
            torch._foreach_lerp_(averages, weights, 1 - decay)
        else:  # one float32 copy at a time
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight.float(), 1 - decay)
        self.steps += 1

    def state(self) -> dict[str, Any]:
        """What `restore` takes: the averaged weights, and the steps they are over."""
        return {"weights": self.weights, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; weights are put where the model's are."""
        self.steps = state["steps"]
        for name, average in self.weights.items():
            average.copy_(state["weights"][name])


@contextmanager
def averaged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, `model` has these weights in place of its own, on its device and in its precision."""
    mine = {name: (p, p.data) for name, p in model.named_parameters() if name in weights}
    for name, (parameter, own) in mine.items():
        parameter.data = weights[name].to(own)
    try:
        yield
    finally:
        for parameter, own in mine.values():
            parameter.data = own
