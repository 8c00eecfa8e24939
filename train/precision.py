"""The arithmetic's precision, as arguments of Lightning's Trainer."""

from __future__ import annotations

from typing import Any

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
