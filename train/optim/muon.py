"""Muon: momentum whose matrices are made orthogonal (Jordan et al., 2024; Liu et al., 2025), and AdamW for all else.

    m ← μ m + g;   u = orthogonalize(g + μ m);   W ← (1 - η λ) W - η · 0.2 √max(m, n) · u

The update's size is that of AdamW's, so AdamW's rates η and decay λ carry over. Matrices of one shape are made orthogonal
together, in stacks: a small model's many matrices cost few kernels. Each rank of several makes all of them orthogonal.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from train.optim.adamw import AdamW, laid_as
from train.optim.matrices import Matrix
from train.optim.orthogonalize import orthogonalize, precision

MOMENTUM = 0.95
STACK = 1 << 26  # numbers of a stack, unless one weight has more; of these so many are made orthogonal at a time


class Muon(AdamW):
    """`matrices` are learnt by the rule above, and have groups of their own; every other parameter is learnt as by `AdamW`."""

    def __init__(self, groups: list[dict[str, Any]], matrices: Iterable[Matrix], **options: Any) -> None:
        super().__init__(groups, **options)
        self._matrices = {matrix.weight: matrix for matrix in matrices}

    def _update(self) -> None:
        """A parameter without gradient stays as it is, and so does its momentum."""
        groups = self.param_groups
        mine = [(group, self._matrices[w]) for group in groups for w in group["params"] if self._learns(w)]
        for stack in _stacks(mine):
            self._update_stack(stack)
        self.param_groups = [g for g in groups if not any(w in self._matrices for w in g["params"])]
        try:
            super()._update()
        finally:
            self.param_groups = groups

    def _learns(self, weight: Tensor) -> bool:
        return weight in self._matrices and weight.grad is not None

    @torch.no_grad()
    def _update_stack(self, stack: list[tuple[dict[str, Any], Matrix]]) -> None:
        """One step of matrices of one shape."""
        matrices = [matrix for _, matrix in stack]
        ahead = self._ahead(matrices)
        whole = torch.cat([matrix.split(u) for matrix, u in zip(matrices, ahead, strict=True)])
        parts = _orthogonal(whole.to(precision(whole.device))).split([matrix.shape[0] for matrix in matrices])
        updates = [matrix.join(part) for matrix, part in zip(matrices, parts, strict=True)]
        self._apply(stack, updates)

    def _ahead(self, matrices: list[Matrix]) -> list[Tensor]:
        """Each weight's momentum moved on, and its gradient with the momentum to come (Nesterov's)."""
        weights: list[Tensor] = [matrix.weight for matrix in matrices]
        gradients = [w.grad for w in weights if w.grad is not None]
        momenta = [self._momentum(w) for w in weights]
        if weights[0].is_cuda:
            from train.optim.muon_kernel import ahead_

            laid = (laid_as(w, g) for w, g in zip(weights, gradients, strict=True))
            return [ahead_(g, m, MOMENTUM, self._flag(m)) for g, m in zip(laid, momenta, strict=True)]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=MOMENTUM))

    def _apply(self, stack: list[tuple[dict[str, Any], Matrix]], updates: list[Tensor]) -> None:
        weights: list[Tensor] = [matrix.weight for _, matrix in stack]
        decays = [1 - group["lr"] * group["weight_decay"] for group, _ in stack]
        sizes = [-group["lr"] * matrix.scale for group, matrix in stack]
        if weights[0].is_cuda:
            from train.optim.muon_kernel import apply_

            for weight, update, decay, size in zip(weights, updates, decays, sizes, strict=True):
                apply_(weight, laid_as(weight, update), decay, size, self._flag(weight))
            return
        updates = [update.to(weight.dtype) for weight, update in zip(weights, updates, strict=True)]
        torch._foreach_mul_(weights, decays)
        torch._foreach_mul_(updates, sizes)
        torch._foreach_add_(weights, updates)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # which torch wants of every state, and nobody reads
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def _orthogonal(stack: Tensor) -> Tensor:
    """[K, m, n], some of the matrices at a time where they are large."""
    most = max(1, STACK // stack[0].numel())
    return orthogonalize(stack) if len(stack) <= most else torch.cat([orthogonalize(part) for part in stack.split(most)])


def _stacks(matrices: list[tuple[dict[str, Any], Matrix]]) -> Iterable[list[tuple[dict[str, Any], Matrix]]]:
    """Those of one shape together, as many as `STACK` holds."""

    def key(entry: tuple[dict[str, Any], Matrix]) -> tuple[int, int]:
        return entry[1].shape[1:]

    for _, alike in groupby(sorted(matrices, key=key), key):
        stack: list[tuple[dict[str, Any], Matrix]] = []
        numbers = 0
        for entry in alike:
            numbers += entry[1].weight.numel()
            if stack and numbers > STACK:
                yield stack
                stack, numbers = [], entry[1].weight.numel()
            stack.append(entry)
        yield stack
