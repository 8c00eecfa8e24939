"""AdamW whose step on a GPU is a kernel of our own (train/optim/adamw_kernel.py); elsewhere it is torch's.

A step does little arithmetic and reads all there is: weight, gradient and two moments, of which three are written back. torch's
fused kernel moves bf16 numbers at three quarters of the memory's bandwidth, ours at nearly all of it (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """As torch's (Loshchilov and Hutter, 2019, algorithm 2), with its state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        weights = [(group, weight) for group in self.param_groups for weight in group["params"]]
        if not all(weight.is_cuda for _, weight in weights):
            return super().step(closure)
        from train.optim.adamw_kernel import adamw_  # brings Triton

        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, weight in weights:
            if weight.grad is not None:
                options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
                adamw_(weight, _laid_as(weight, weight.grad), *self._moments(weight), **options)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A state saved on another kind of device is taken over as one of this: only torch's fused step counts on it. Raises
        `ValueError` for the state of an optimizer of another kind."""
        check_kind(self.param_groups, state_dict["param_groups"])
        fused = [group["fused"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, here in zip(self.param_groups, fused, strict=True):
            group["fused"] = here
        for weight, state in self.state.items():
            for name, value in state.items():
                is_count = name == "step"
                state[name] = value.to(weight.device if fused[0] else "cpu") if is_count else _laid_as(weight, value)

    def _moments(self, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean and squares so far, and the number of this step, from 1."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        return state["exp_avg"], state["exp_avg_sq"], float(state["step"])


def check_kind(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Raise `ValueError` where the saved groups are of another `optim.kind`: its moments mean nothing to this one."""
    wanted, found = kind_of(groups), kind_of(saved)
    if wanted != found:
        raise ValueError(
            f"the checkpoint is one of optim.kind {found!r}, and the run's is {wanted!r}: go on with {found!r}, or begin "
            "another run.dir with its weights alone (--init-from)"
        )


def kind_of(groups: list[dict[str, Any]]) -> str:
    """The `optim.kind` that makes such groups, whole or as saved."""
    return "muon" if any(str(group.get("name", "")).endswith("/muon") for group in groups) else "adamw"


def _laid_as(weight: Tensor, other: Tensor) -> Tensor:
    """`other` in memory as the weight is."""
    return other if other.stride() == weight.stride() else torch.empty_like(weight, dtype=other.dtype).copy_(other)
