"""The arithmetic: its precision, as arguments of Lightning's Trainer, and whether it can be repeated to the bit."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.utils.deterministic
from lightning.pytorch.plugins.precision import HalfPrecision


class WholeBFloat16(HalfPrecision):
    """Weights, gradients and moments in bfloat16. Lightning would also cast what a batch holds; ids, pixels and times stay."""

    def __init__(self) -> None:
        super().__init__("bf16-true")

    def convert_input(self, data: Any) -> Any:
        return data


def precision_arguments(name: str, plugins: list[Any]) -> dict[str, Any]:
    """`precision` and `plugins`, of which a precision of our own is one."""
    if name == "bf16-true":
        return {"plugins": [*plugins, WholeBFloat16()]}
    return {"plugins": plugins, "precision": name}


def make_deterministic() -> None:
    """From here on the same seed gives the same bits on the same hardware; an operation that cannot raises `RuntimeError`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # what is not written is not read: 3 % of a step on a CPU
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass cannot be repeated
