"""The training loss as sums, so that micro-batches and ranks add up to exactly the loss of the whole step.

B rows, T tokens, D model width, V vocabulary, n learnt positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vlm.batch import IGNORE
from vlm.config import DecoderConfig
from vlm.moe import RouterStats, balance_loss, router_z_loss

CHUNK = 4096  # learnt positions whose logits exist at one time


def nll_sum(states: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """Summed negative log-likelihood, float32 [], of `labels` [B, T] under states [B, T, D] and head [V, D].

    Logits are made for learnt positions only, CHUNK at a time: in question-answer data these are a small part of T.
    """
    learnt = labels != IGNORE
    states, labels = states[learnt], labels[learnt]
    parts = [
        F.cross_entropy(F.linear(s, head).float(), y, reduction="sum")
        for s, y in zip(states.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return sum(parts[1:], parts[0])


def total_loss(
    nll: Tensor, learnt: Tensor, router: RouterStats | None, config: DecoderConfig, *, counts: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy + weighted balance and z losses.

    `learnt` [] is the number of learnt tokens of the whole step; `counts` [L, E] the pairs that all ranks routed in this pass
    (default: this rank's), from which their number of tokens follows.
    """
    loss = nll / learnt.clamp(min=1)
    if router is None:
        return loss
    counts = router.counts.sum(dim=1) if counts is None else counts
    tokens = counts[0].sum() / config.top_k
    return (
        loss + config.balance_loss * balance_loss(router, counts, tokens) + config.router_z_loss * router_z_loss(router, tokens)
    )
