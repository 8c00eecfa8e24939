"""Mixture of experts: a router in float32, dropless dispatch by sorting, and what keeps the load even.

N tokens (B·T), E experts, k experts a token, D model width, F expert width, S = N·k (token, expert) pairs.

No token is ever dropped and no expert has a capacity: pairs are sorted by expert and each expert multiplies its own slice.
A pair's weight scales what its expert's down projection reads, not what it gives: the same by linearity, and what the gradient
of the weight needs is then of width F. The k results of a token are added in float32, in the order of their scores, so the sum
does not depend on where an expert stands. Rows move by gathers, backwards too, and on a GPU nothing waits for the host.

Statistics are kept apart for tokens that see an image and tokens that do not: experts that die for one of them are invisible in
the sum.

The load is evened by a loss (`balance_loss`), by a bias that moves after each step and enters the choice alone
(`Router.rebalance`), or by both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.activation import ACTIVATIONS
from vlm.config import Activation, DecoderConfig

_MANY = 4  # experts a token from which rows are moved by kernels of their own: the compiler's are slow there
_ROW = 8  # the grouped kernel wants rows of whole 16 bytes: so many bf16 numbers
_TINY = 1e-20  # keeps the sum of k sigmoid scores from being 0


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

    f is an expert's share of the pairs, P its mean probability; for a sigmoid router, its mean share of a token's scores
    (DeepSeek-V3, 2024, eq. 17 to 20, over the batch instead of each sequence). `counts` [L, E] and `tokens` [] are those of
    all ranks' batches together; the returned sum over ranks is then the loss of these, and so are its gradients.
    """
    fraction = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return (fraction * stats.probability / tokens.clamp(min=1)).sum(dim=-1).mean() * counts.shape[-1]


def router_z_loss(stats: RouterStats, tokens: Tensor) -> Tensor:
    """Mean of log²Σexp(router logits) over tokens and layers (Zoph et al., 2022, eq. 5)."""
    return (stats.z / tokens.clamp(min=1)).mean()


def in_one_kernel(dtype: torch.dtype, *widths: int) -> bool:
    """Has a GPU a grouped kernel for it? Without one the host must know how many rows each expert has."""
    return dtype == torch.bfloat16 and all(width % _ROW == 0 for width in widths)


def grouped_matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """[S, A] rows sorted by expert, [E, A, C] weights, [E] where each expert's rows end → [S, C].

    One grouped kernel on a GPU in bf16; elsewhere a product for each expert, which is the reference.
    """
    if weight.shape[0] == 1:
        return x @ weight[0]
    if x.is_cuda and in_one_kernel(x.dtype, x.shape[1], weight.shape[2]):
        return F.grouped_mm(x, weight.to(x.dtype), offs=ends.to(torch.int32))
    if torch.compiler.is_compiling():
        return _SplitProduct.apply(x, weight.to(x.dtype), ends)
    return _by_expert(x, weight, ends)


def _by_expert(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return torch.cat([rows @ w for rows, w in zip(_split(x, ends), weight.unbind(), strict=True)])


def _split(rows: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
    return rows.tensor_split(ends[:-1].tolist())


@torch.library.custom_op("vlm::split_product", mutates_args=())
def _split_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return _by_expert(x, weight, ends)


@_split_product.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(x), weight.shape[2])


@torch.library.custom_op("vlm::split_outer", mutates_args=())
def _split_outer(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    return torch.stack([rows.t() @ g for rows, g in zip(_split(x, ends), _split(grad, ends), strict=True)])


@_split_outer.register_fake
def _(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(ends), x.shape[1], grad.shape[1])


class _SplitProduct(torch.autograd.Function):
    """A product for each expert in one piece that the compiler does not look into: it would compile anew whenever the routers
    sent other numbers of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, ends)
        return _split_product(x, weight, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, ends = ctx.saved_tensors
        of_x, of_weight, _ = ctx.needs_input_grad
        return (
            _split_product(grad, weight.transpose(1, 2), ends) if of_x else None,
            _split_outer(x, grad, ends) if of_weight else None,
            None,
        )


def _spread(x: Tensor, order: Tensor, top_k: int) -> Tensor:
    """[N, D] tokens → [S, D] rows sorted by expert: row i is token order[i] // k."""
    if x.is_cuda and top_k >= _MANY:
        from vlm.kernels.rows import take_rows

        return take_rows(x, order, top_k)
    return x[order // top_k]


def _collect(rows: Tensor, place: Tensor, top_k: int) -> Tensor:
    """[S, D] rows, and where in them each token's pairs are [S] → [N, D], added in float32 at least, in the pairs' order."""
    if rows.is_cuda and top_k >= _MANY and rows.dtype != torch.float64:
        from vlm.kernels.rows import sum_rows

        return sum_rows(rows, place, top_k)
    return rows[place].unflatten(0, (-1, top_k)).sum(dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))


class _Dispatch(torch.autograd.Function):
    """Tokens to the experts. `place` [S], the inverse of `order`, says where each pair went, so that the gradient is a sum of
    gathered rows: no atomic additions, the same bits each time.

    Here and below a gradient calls no other Function: the compiler of torch 2.11 makes zeros of it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.top_k = top_k
        return _spread(x, order, top_k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return _collect(grad, place, ctx.top_k).to(grad.dtype), None, None, None


class _Combine(torch.autograd.Function):
    """The experts' rows back, [S, D] → [N, D] in float32 at least: what `_Dispatch` is to gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, place: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.top_k, ctx.dtype = top_k, rows.dtype
        return _collect(rows, place, top_k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        return _spread(grad.to(ctx.dtype), order, ctx.top_k), None, None, None


class _Permute(torch.autograd.Function):
    """x[index], of which `inverse` is the inverse permutation: the gradient is a gather, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


@torch.library.custom_op("vlm::wide_product", mutates_args=())
def _wide_product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x, weight.t(), out_dtype=torch.float32)


@_wide_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight), dtype=torch.float32)


class _WideProduct(torch.autograd.Function):
    """[N, D] · [E, D]ᵀ in float32, of bf16 numbers on a GPU: their products are exact in float32, so it is what they would give
    cast to it, by the fast kernels. The gradient is rounded to bf16 before it is multiplied, as any other's is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _wide_product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        grad = grad.to(x.dtype)
        return grad @ weight if of_x else None, grad.t() @ x if of_weight else None


class Router(nn.Module):
    """Chooses k of E experts for each token.

    Scores are a softmax over the experts or a sigmoid of each. The k highest are taken, with `bias` added for this choice only;
    a chosen expert's weight is its own score, divided by the sum of the k if `normalize_top_k`, times `routed_scale`.
    """

    bias: Tensor | None

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.kind, self.top_k, self.normalize = config.router, config.top_k, config.normalize_top_k
        self.scale, self.bias_rate = config.routed_scale, config.balance_bias_rate
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))
        bias = torch.zeros(config.num_experts, dtype=torch.float32) if self.bias_rate else None
        self.register_buffer("bias", bias)  # [E]

    def forward(self, x: Tensor, real: Tensor | None, sees: Tensor) -> tuple[Tensor, Tensor, RouterStats | None]:
        """[N, D] → weights [N, k], experts [N, k], highest score first, and sums over the tokens where `real` [N], split by
        `sees` [N], if not `None`. All in float32 whatever the precision around it (float64 in a model of that)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            narrow = x.is_cuda and x.dtype == self.weight.dtype == torch.bfloat16
            logits = _WideProduct.apply(x, self.weight) if narrow else F.linear(x.to(dtype), self.weight.to(dtype))
            scores = logits.softmax(dim=-1) if self.kind == "softmax" else logits.sigmoid()
            weights, experts = self._choose(scores)
            return weights, experts, None if real is None else self._stats(logits, scores, experts, real, sees)

    @torch.no_grad()
    def rebalance(self, load: Tensor) -> None:
        """Move the bias by its rate, up where an expert had less than its share of `load` [E] (tokens of a step), else down
        (Wang et al., 2024, algorithm 1). Nothing to do without a bias."""
        if self.bias is not None:
            self.bias += self.bias_rate * (load.double().mean() - load).sign().to(self.bias)

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        if self.bias is None:
            weights, experts = scores.topk(self.top_k, dim=-1)
        else:
            experts = (scores.detach() + self.bias).topk(self.top_k, dim=-1).indices
            weights = scores.gather(-1, experts)
        if self.normalize:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + _TINY)
        return weights * self.scale, experts

    def _stats(self, logits: Tensor, scores: Tensor, experts: Tensor, real: Tensor, sees: Tensor) -> RouterStats:
        weight = real.to(logits.dtype)
        kind = torch.stack((weight * ~sees, weight * sees))
        chosen = torch.zeros_like(logits).scatter(1, experts, 1.0)
        probability = scores if self.kind == "softmax" else scores / (scores.sum(dim=-1, keepdim=True) + _TINY)
        return RouterStats(kind @ chosen, weight @ probability, weight @ logits.logsumexp(dim=-1).square(), weight.sum())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """The bias goes where the module goes, but stays float32: in bf16 its small steps would be lost."""
        before = self.bias
        super()._apply(fn, recurse)
        if before is not None and self.bias is not None and self.bias.dtype != before.dtype:
            self.bias = before.to(self.bias.device)
        return self


def _gated(y: Tensor, weights: Tensor | None, activation: Activation) -> Tensor:
    """Gate and up side by side [S, 2 F] → act(gate) · up [S, F], times weights [S]."""
    gate, up = y.chunk(2, dim=-1)
    h = ACTIVATIONS[activation](gate) * up
    return h if weights is None else (h * weights[:, None]).to(y.dtype)


class _WeightedDown(torch.autograd.Function):
    """`_gated` and the down projections, in bf16 on a GPU. The gradient makes `_gated` again where it reads gate and up for
    their own gradients: to keep it would take memory, to make it apart another reading."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, down: Tensor, ends: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(y, weights, down, ends)
        ctx.activation = activation
        return F.grouped_mm(_gated(y, weights, activation), down, offs=ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from vlm.kernels.gated import gated_gradient

        y, weights, down, ends = ctx.saved_tensors
        learns = ctx.needs_input_grad[2]
        of_h = F.grouped_mm(grad, down.transpose(1, 2), offs=ends)
        of_y, h, of_weights = gated_gradient(y, weights, of_h, ctx.activation, learns)
        return of_y, of_weights, F.grouped_mm(h.t(), grad, offs=ends) if learns else None, None, None


class Experts(nn.Module):
    """E gated feed-forwards, down(act(gate x) · up x) (Shazeer, 2020), stacked; gate and up projections side by side."""

    gate_up_bias: nn.Parameter | None
    down_bias: nn.Parameter | None

    def __init__(self, config: DecoderConfig, num_experts: int, hidden: int) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate_up = nn.Parameter(torch.empty(num_experts, config.dim, 2 * hidden))
        self.down = nn.Parameter(torch.empty(num_experts, hidden, config.dim))
        for name, width in (("gate_up_bias", 2 * hidden), ("down_bias", config.dim)):
            self.register_parameter(name, nn.Parameter(torch.empty(num_experts, width)) if config.ffn_bias else None)

    def forward(self, x: Tensor, expert: Tensor, weights: Tensor | None = None) -> Tensor:
        """[S, D] rows, the expert [S] of each, in ascending order, and what its result is weighted with [S] → [S, D]."""
        if torch.is_autocast_enabled(x.device.type):  # the residual stream stays float32: the grouped kernel wants the other
            x = x.to(torch.get_autocast_dtype(x.device.type))
        ends = torch.searchsorted(expert, torch.arange(len(self.down), device=x.device, dtype=expert.dtype), right=True)
        y = grouped_matmul(x, self.gate_up, ends)
        if self.gate_up_bias is not None:
            y = y + self.gate_up_bias.to(y.dtype)[expert]
        if weights is not None and y.is_cuda and in_one_kernel(y.dtype, *self.down.shape[1:]):
            y = _WeightedDown.apply(y, weights, self.down.to(y.dtype), ends.to(torch.int32), self.activation)
        else:
            y = grouped_matmul(_gated(y, weights, self.activation), self.down, ends)
        if self.down_bias is None:
            return y
        bias = self.down_bias[expert]
        return y + (bias if weights is None else bias * weights[:, None]).to(y.dtype)


class MoE(nn.Module):
    """The feed-forward of a decoder layer: routed experts and, where the config has one, an expert that every token passes.

    A dense layer is one expert: there is no router and nothing to balance.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        routed = config.is_moe(layer)
        self.router = Router(config) if routed else None
        self.experts = Experts(config, config.num_experts if routed else 1, config.ffn_dim(layer))
        self.shared = Experts(config, 1, config.shared_dim) if routed and config.shared_dim else None

    def forward(self, x: Tensor, real: Tensor | None, sees: Tensor) -> tuple[Tensor, RouterStats | None]:
        """[B, T, D] → [B, T, D] and the router's sums, none where `real` is `None`; `real`, `sees` bool [B, T]."""
        flat = x.flatten(0, 1)
        first = torch.zeros(len(flat), dtype=torch.int64, device=x.device)
        if self.router is None:
            return self.experts(flat, first).view_as(x), None
        weights, experts, stats = self.router(flat, None if real is None else real.flatten(), sees.flatten())
        y = self._routed(flat, weights, experts)
        if self.shared is not None:
            y = y + self.shared(flat, first)
        return y.to(x.dtype).view_as(x), stats

    def _routed(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """[N, D], and weights and experts [N, k] → [N, D], in the router's precision."""
        expert, order = experts.flatten().to(torch.int32).sort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        pairs = order, place, experts.shape[1]
        rows = self.experts(_Dispatch.apply(x, *pairs), expert, _Permute.apply(weights.flatten(), order, place))
        return _Combine.apply(rows, *pairs)
