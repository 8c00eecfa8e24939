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
    """As torch's (Loshchilov and Hutter, 2019, algorithm 2), with its state.

    `left_out`, bool [] on the weights' device: where true the next step leaves weights and state as they are. The host need not
    know it on a GPU.
    """

    left_out: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            if self._on_gpu() or self.left_out is None or not self.left_out:
                self._update()
        finally:
            self.left_out = None
        return loss

    def _on_gpu(self) -> bool:
        return any(weight.is_cuda for group in self.param_groups for weight in group["params"])

    def _update(self) -> None:
        """One step of every parameter that has a gradient."""
        if not self._on_gpu():
            super().step()
            return
        from train.optim.adamw_kernel import adamw_  # brings Triton

        learnt = [(group, weight) for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        if not learnt:
            return
        moments = [self._moments(weight) for _, weight in learnt]
        left_out = self._flag(learnt[0][1])
        torch._foreach_add_([count for _, _, count in moments], (~left_out).to(torch.float32))
        for (group, weight), (mean, square, count) in zip(learnt, moments, strict=True):
            options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
            adamw_(weight, laid_as(weight, weight.grad), mean, square, count, left_out, **options)

    def _flag(self, weight: Tensor) -> Tensor:
        """`left_out` for a kernel: false where nobody has set it."""
        if self.left_out is None:
            self.left_out = torch.zeros((), dtype=torch.bool, device=weight.device)
        return self.left_out

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
                on_device = weight.is_cuda or fused[0]  # where torch's own step keeps its count when it is fused
                moved = value.to(weight.device if on_device else "cpu") if name == "step" else laid_as(weight, value)
                state[name] = moved

    def _moments(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and squares so far, and the number of steps [], on the weight's device."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state["exp_avg"], state["exp_avg_sq"], state["step"]


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


def laid_as(weight: Tensor, other: Tensor) -> Tensor:
    """`other` in memory as the weight is."""
    return other if other.stride() == weight.stride() else torch.empty_like(weight, dtype=other.dtype).copy_(other)
