"""The training loss as sums, so that micro-batches and ranks add up to exactly the loss of the whole step.

The cross-entropy never holds all logits: CHUNK bytes of them are made at a time, and their gradients with them in the forward
pass, while they are there (as in Liger Kernel, Hsu et al., 2024). What stays for the backward pass has the size of the states
and of the head, not of [B, T, V].

B rows, T tokens, D model width, V vocabulary, n learnt positions, c learnt positions whose logits exist at one time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlm.batch import IGNORE
from vlm.config import DecoderConfig
from vlm.moe import RouterStats, balance_loss, router_z_loss

CHUNK = 1 << 29  # bytes of logits that exist at one time, in the head's precision


def nll_sum(states: Tensor, labels: Tensor, head: Tensor, learnt: int | None = None) -> Tensor:
    """Summed negative log-likelihood [], in float32 or wider, of `labels` [B, T] under states [B, T, D] and head [V, D].

    Logits are made for learnt positions only: in question-answer data these are a small part of T. `learnt` is their number:
    who knows it spares a GPU the wait for it.
    """
    states, labels = _learnt(states.flatten(0, -2), labels.flatten(), learnt)
    if torch.is_grad_enabled() and (states.requires_grad or head.requires_grad):
        return _LinearNLL.apply(states, labels, head)
    return sum((_chunk(s, y, head)[0] for s, y in _chunks(states, labels, head)), _zero(states))


def token_logprobs(states: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """[n, D] states, [n] labels → the log-probability [n] of each, in float32 or wider, without all logits at a time."""
    parts = [_chosen(*_logits(s, head), y) for s, y in _chunks(states, labels, head)]
    return torch.cat(parts) if parts else _zero(states).expand(0)


def _learnt(states: Tensor, labels: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """[N, D] and [N] → those whose label is learnt, [n, D] and [n], in their order."""
    chosen = labels != IGNORE
    count = int(chosen.sum()) if count is None else count
    if count == len(labels):
        return states, labels
    index = chosen.int().argsort(descending=True, stable=True)[:count]
    return states.index_select(0, index), labels.index_select(0, index)


class _LinearNLL(torch.autograd.Function):
    """Σ cross-entropy of the logits states · headᵀ, differentiable once in both."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, labels: Tensor, head: Tensor) -> Tensor:
        of_states, _, of_head = ctx.needs_input_grad
        grad_states = torch.empty_like(states) if of_states else None
        grad_head = torch.zeros_like(head, dtype=_wide(head.dtype)) if of_head else None  # sums of bf16 lose small terms
        dtype = head.dtype
        if torch.is_autocast_enabled(head.device.type):  # once, not for each chunk
            head = head.to(torch.get_autocast_dtype(head.device.type))
        nll, start = _zero(states), 0
        for s, y in _chunks(states, labels, head):
            part, grad = _with_gradient(s, y, head)
            nll = nll + part
            if grad_states is not None:
                grad_states[start : start + len(s)] = grad @ head
            if grad_head is not None:
                grad_head += grad.T @ s
            start += len(s)
        ctx.save_for_backward(grad_states, None if grad_head is None else grad_head.to(dtype))
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        of_states, of_head = (None if saved is None else saved * grad for saved in ctx.saved_tensors)  # [] does not promote
        return of_states, None, of_head


def _with_gradient(states: Tensor, labels: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Of [c, D] states: the summed loss [] and its gradient by the logits [c, V], in the head's precision."""
    if states.is_cuda and states.dtype != torch.float64:
        from vlm.kernels.cross_entropy import cross_entropy_

        logits = F.linear(states, head)
        return cross_entropy_(logits, labels).sum(), logits
    nll, logits, normaliser = _chunk(states, labels, head)
    return nll, _gradient(logits, normaliser, labels).to(head.dtype)


def _chunk(states: Tensor, labels: Tensor, head: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of [c, D] states: the summed loss [], the logits [c, V] and their log-normaliser [c, 1]."""
    logits, normaliser = _logits(states, head)
    return -_chosen(logits, normaliser, labels).sum(), logits, normaliser


def _logits(states: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(states, head)
    logits = logits.to(_wide(logits.dtype))
    return logits, logits.logsumexp(dim=-1, keepdim=True)


def _chosen(logits: Tensor, normaliser: Tensor, labels: Tensor) -> Tensor:
    """[c] log-probabilities of the labels."""
    return (logits.gather(1, labels[:, None]) - normaliser)[:, 0]


def _gradient(logits: Tensor, normaliser: Tensor, labels: Tensor) -> Tensor:
    """Of the summed loss by the logits [c, V], in their place: softmax less one-hot."""
    probability = logits.sub_(normaliser).exp_()
    return probability.scatter_add_(1, labels[:, None], probability.new_full((len(labels), 1), -1.0))


def _chunks(states: Tensor, labels: Tensor, head: Tensor) -> zip[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK // (len(head) * head.element_size()))
    return zip(states.split(rows), labels.split(rows), strict=True)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _zero(states: Tensor) -> Tensor:
    return torch.zeros((), dtype=_wide(states.dtype), device=states.device)


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
