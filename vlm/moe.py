"""Mixture of experts: a router in float32, dropless dispatch by sorting, and the losses that keep it balanced.

N tokens (B·T), E experts, k experts a token, D model width, F expert width, S = N·k (token, expert) pairs.

No token is ever dropped and no expert has a capacity: pairs are sorted by expert and each expert multiplies its own slice.
Statistics are kept apart for tokens that see an image and tokens that do not: experts that die for one of them are
invisible in the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.config import DecoderConfig


@dataclass(frozen=True)
class RouterStats:
    """Sums over the real tokens of a forward pass, so that ranks and micro-batches add up. L routers."""

    counts: Tensor  # [L, 2, E] pairs sent to each expert by tokens without (0) and with (1) an image; no gradient
    probability: Tensor  # [L, E] summed router probabilities
    z: Tensor  # [L] summed squared log-normaliser
    tokens: Tensor  # [] number of tokens

    @classmethod
    def stack(cls, layers: list[RouterStats]) -> RouterStats:
        counts, probability, z = (torch.stack([getattr(s, n) for s in layers]) for n in ("counts", "probability", "z"))
        return cls(counts, probability, z, layers[0].tokens)


def balance_loss(stats: RouterStats, counts: Tensor, tokens: Tensor) -> Tensor:
    """E · Σ_e f_e · P_e, mean over layers (Fedus et al., 2022, eq. 4); 1 when the load is even.

    `counts` [L, E] and `tokens` [] are those of all ranks' batches together; the returned sum over ranks is then the loss of
    these, and so are its gradients.
    """
    fraction = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return (fraction * stats.probability / tokens.clamp(min=1)).sum(dim=-1).mean() * counts.shape[-1]


def router_z_loss(stats: RouterStats, tokens: Tensor) -> Tensor:
    """Mean of log²Σexp(router logits) over tokens and layers (Zoph et al., 2022, eq. 5)."""
    return (stats.z / tokens.clamp(min=1)).mean()


def grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """[S, A] rows sorted by expert, [E, A, C] weights, [E] rows of each expert → [S, C].

    One grouped kernel on a GPU in bf16; elsewhere a product for each expert, which is the reference.
    """
    if x.is_cuda and x.dtype == torch.bfloat16:
        return F.grouped_mm(x, weight.to(x.dtype), offs=counts.cumsum(0).to(torch.int32))
    return torch.cat([rows @ w for rows, w in zip(x.split(counts.tolist()), weight.unbind(), strict=True)])


class Router(nn.Module):
    """Chooses k of E experts for each token."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.top_k, self.normalize = config.top_k, config.normalize_top_k
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, D] → logits [N, E], weights [N, k], experts [N, k], all in float32 whatever the precision around it."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())
            weights, experts = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
            if self.normalize:
                weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, experts

    def stats(self, logits: Tensor, experts: Tensor, real: Tensor, sees: Tensor) -> RouterStats:
        """Sums over the tokens where `real` [N], split by `sees` [N]."""
        kind = F.one_hot(sees.long(), 2).float() * real[:, None]
        chosen = F.one_hot(experts, logits.shape[-1]).float().sum(dim=1)
        weight = real.float()
        return RouterStats(
            counts=kind.T @ chosen,
            probability=weight @ logits.softmax(dim=-1),
            z=weight @ logits.logsumexp(dim=-1).square(),
            tokens=weight.sum(),
        )


class Experts(nn.Module):
    """E SwiGLU feed-forwards, w2(silu(w1 x) · w3 x) (Shazeer, 2020), stacked; gate and up projections side by side."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(config.num_experts, config.dim, 2 * config.expert_dim))
        self.down = nn.Parameter(torch.empty(config.num_experts, config.expert_dim, config.dim))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """[S, D] sorted by expert → [S, D]."""
        if torch.is_autocast_enabled(x.device.type):  # the residual stream stays float32: the grouped kernel wants the other
            x = x.to(torch.get_autocast_dtype(x.device.type))
        gate, up = grouped_matmul(x, self.gate_up, counts).chunk(2, dim=-1)
        return grouped_matmul(F.silu(gate) * up, self.down, counts)


class MoE(nn.Module):
    """The feed-forward of a decoder layer. With one expert there is no router and nothing to balance."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.router = Router(config) if config.num_experts > 1 else None
        self.experts = Experts(config)

    def forward(self, x: Tensor, real: Tensor, sees: Tensor) -> tuple[Tensor, RouterStats | None]:
        """[B, T, D] → [B, T, D] and the router's sums; `real`, `sees` bool [B, T]."""
        flat = x.flatten(0, 1)
        if self.router is None:
            counts = torch.tensor([flat.shape[0]], device=x.device)
            return self.experts(flat, counts).view_as(x), None
        logits, weights, experts = self.router(flat)
        order = experts.flatten().argsort(stable=True)
        token = order // self.router.top_k
        counts = torch.bincount(experts.flatten(), minlength=self.num_experts)
        y = self.experts(flat[token], counts) * weights.flatten()[order, None].to(x.dtype)
        out = torch.zeros_like(flat).index_add(0, token, y.to(x.dtype))
        return out.view_as(x), self.router.stats(logits, experts, real.flatten(), sees.flatten())
