"""Routing forced to balance, as some published figures have it: token after token takes the next k experts.

For any router that returns, beside other things, the numbers of the chosen experts as integers [tokens, k]. The weights of the
experts, and what is computed from the scores, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def force_balance(routers: Iterable[nn.Module], num_experts: int) -> None:
    """From here on each of `routers` sends as many tokens to one expert as to another."""

    def in_turns(router: nn.Module, inputs: Any, output: tuple) -> tuple:
        return tuple(_turns(part, num_experts) if _is_choice(part) else part for part in output)

    for router in routers:
        router.register_forward_hook(in_turns)


def _is_choice(part: Any) -> bool:
    return isinstance(part, Tensor) and not part.is_floating_point() and part.ndim == 2


def _turns(chosen: Tensor, num_experts: int) -> Tensor:
    return (torch.arange(chosen.numel(), device=chosen.device) % num_experts).view_as(chosen).to(chosen.dtype)
