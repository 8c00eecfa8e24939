"""The kernels as functions of tensors: which tiles, which grid, fresh results.

`Matrix` hides how a weight lies, `Norm` which kind it is, `Choice` that there are experts. TILES is what measured best on an
H100 for bf16; other shapes and types take the same.

B rows, J experts a row, K features in, N features out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor, nn

from vlm.attention import Attention
from vlm.config import Activation
from vlm.kernels import attend as attend_kernels
from vlm.kernels import pick as pick_kernels
from vlm.kernels import products
from vlm.kernels import router as router_kernels
from vlm.moe import Experts, Router
from vlm.sight import Sight

KEYS = 64  # of the cache, that are read at a time
MOST_ROWS = 64  # a program takes; more rows are another program's, which reads the same weights from the GPU's cache


class Tile(NamedTuple):
    """Of a weight: features out, features in; loads under way at a time; warps."""

    n: int
    k: int
    stages: int
    warps: int


# By kernel, whether there is one row alone, and whether the features in lie side by side in memory. `contract` has no other
# programs than its tiles: they are narrow, so that there is one for each processor.
TILES = {
    ("expand", True, True): Tile(8, 2048, 1, 4),
    ("expand", True, False): Tile(16, 2048, 1, 16),
    ("expand", False, True): Tile(32, 128, 4, 4),
    ("expand", False, False): Tile(64, 64, 4, 4),
    ("contract", True, True): Tile(8, 2048, 1, 4),
    ("contract", True, False): Tile(16, 2048, 1, 8),
    ("contract", False, True): Tile(16, 256, 4, 4),
    ("contract", False, False): Tile(32, 128, 5, 4),
}


@dataclass(frozen=True)
class Norm:
    """`kind` as the kernels name it; weight and bias [K] where it has them."""

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def none(cls) -> Norm:
        return cls("none", None, None, 0.0)

    @classmethod
    def of(cls, module: nn.Module) -> Norm:
        """An RMS norm, a layer norm, or the identity."""
        if isinstance(module, nn.Identity):
            return cls.none()
        kind = "rms" if isinstance(module, nn.RMSNorm) else "layer"
        return cls(kind, module.weight, getattr(module, "bias", None), module.eps)


@dataclass(frozen=True)
class Matrix:
    """E weights that lie alike, K to N features each: strides to the next expert, feature out and feature in. `up` is a second
    weight of the same kind, where there is a gate."""

    weight: Tensor
    up: Tensor | None
    bias: Tensor | None
    up_bias: Tensor | None
    size: tuple[int, int]
    strides: tuple[int, int, int]

    @classmethod
    def linear(cls, weight: Tensor, *, gated: bool = False, bias: Tensor | None = None) -> Matrix:
        """[N, K]; gated: [2 N, K], gate and up one below the other."""
        gate, up = weight.chunk(2) if gated else (weight, None)
        return cls(gate, up, bias, None, (gate.shape[1], gate.shape[0]), (0, gate.stride(0), gate.stride(1)))

    @classmethod
    def gate_up(cls, experts: Experts) -> Matrix:
        (gate, up), bias = experts.gate_up.chunk(2, dim=-1), experts.gate_up_bias
        biases = (None, None) if bias is None else bias.chunk(2, dim=-1)
        stride_e, stride_k, stride_n = gate.stride()
        return cls(gate, up, *biases, (gate.shape[1], gate.shape[2]), (stride_e, stride_n, stride_k))

    @classmethod
    def down(cls, experts: Experts) -> Matrix:
        stride_e, stride_k, stride_n = experts.down.stride()
        return cls(experts.down, None, experts.down_bias, None, tuple(experts.down.shape[1:]), (stride_e, stride_n, stride_k))


@dataclass(frozen=True)
class Choice:
    """Experts of each row, int32 [B, J], their weights [B, J] in float32, and of how many they were chosen."""

    ids: Tensor
    weights: Tensor
    num_experts: int

    @property
    def by_pair(self) -> bool:
        """Are there fewer (row, expert) pairs than experts, so that the kernels go through the pairs?"""
        return self.ids.numel() <= self.num_experts

    @property
    def slots(self) -> int:
        return min(self.ids.numel(), self.num_experts)


def power(n: int, least: int = 1) -> int:
    return max(triton.next_power_of_2(n), least)


def rows_of(rows: int) -> int:
    """Rows that a program takes: the tensor cores want 16."""
    return 1 if rows == 1 else min(power(rows, 16), MOST_ROWS)


def _blocks(kernel: str, rows: int, matrix: Matrix, choice: Choice | None) -> tuple[int, dict[str, int]]:
    """Programs along N, and the constants of `expand` and `contract`."""
    tile = TILES[kernel, rows == 1, matrix.strides[2] == 1]
    k, n = matrix.size
    by_pair = choice is not None and choice.by_pair
    constants = {
        "K": k,
        "N": n,
        "J": 1 if choice is None else choice.ids.shape[1],
        "ROUTED": choice is not None,
        "BY_PAIR": by_pair,
        "BLOCK_B": rows_of(rows),
        "BLOCK_J": 1 if choice is None else power(choice.ids.shape[1]),
        "BLOCK_P": power(choice.ids.numel()) if by_pair else 1,
        "BLOCK_N": tile.n,
        "BLOCK_K": min(tile.k, power(k, 16)),
        "STAGES": tile.stages,
        "num_warps": tile.warps,
    }
    return triton.cdiv(n, tile.n), constants


def expand(x: Tensor, norm: Norm, matrix: Matrix, act: Activation | None = None, choice: Choice | None = None) -> Tensor:
    """[B, K] → act(norm(x) W), times the product with `up` where there is one: [B, J, N]."""
    rows, (_, n) = len(x), matrix.size
    tiles, constants = _blocks("expand", rows, matrix, choice)
    y = x.new_empty(rows, constants["J"], n)
    grid = (tiles, choice.slots if choice else 1, triton.cdiv(rows, constants["BLOCK_B"]))
    ids, bias = (x, matrix.bias) if choice is None else (choice.ids, matrix.bias)
    products.expand[grid](
        x, norm.weight, norm.bias, norm.eps, matrix.weight, matrix.up, bias, matrix.up_bias, ids, y,
        rows, rows * constants["J"], *matrix.strides, 0 if bias is None else bias.stride(0),
        **constants, GATED=matrix.up is not None, NORM=norm.kind, ACT=act or "none", BIAS=bias is not None,
    )  # fmt: skip
    return y


def contract(
    h: Tensor, matrix: Matrix, x: Tensor, choice: Choice | None = None, scale: Tensor | None = None, sees: Tensor | None = None
) -> None:
    """Add to x [B, N], in place, scale [N] times the weighted sum of h [B, J, K] W, in the rows where `sees` [B]."""
    rows, bias = len(x), matrix.bias
    tiles, constants = _blocks("contract", rows, matrix, choice)
    products.contract[(tiles, triton.cdiv(rows, constants["BLOCK_B"]))](
        h, matrix.weight, bias, *((h, h) if choice is None else (choice.ids, choice.weights)), scale, sees, x,
        rows, rows * constants["J"], choice.slots if choice else 1, *matrix.strides, 0 if bias is None else bias.stride(0),
        **constants, BIAS=bias is not None, SCALED=scale is not None, SEES=sees is not None,
    )  # fmt: skip


def project(x: Tensor, norm: Norm, attention: Attention) -> Tensor:
    """[B, K] → queries, keys and values of norm(x), [B, (H + 2 KH) h]."""
    rows, (n_q, k), n_k = len(x), attention.query.weight.shape, attention.key.weight.shape[0]
    tile, block = TILES["expand", rows == 1, True], rows_of(rows)
    y = x.new_empty(rows, n_q + 2 * n_k)
    grid = (triton.cdiv(n_q, tile.n) + 2 * triton.cdiv(n_k, tile.n), triton.cdiv(rows, block))
    parts = (attention.query, attention.key, attention.value)
    products.project[grid](
        x, norm.weight, norm.eps, *(part.weight for part in parts), *(part.bias for part in parts), y, rows,
        K=k, N_Q=n_q, N_K=n_k, BIAS=attention.query.bias is not None, BLOCK_B=block, BLOCK_N=tile.n,
        BLOCK_K=min(tile.k, power(k, 16)), STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return y


def route(x: Tensor, norm: Norm, router: Router) -> tuple[Tensor, Choice]:
    """[B, K] → norm(x) and its experts."""
    (experts, k), rows, j = router.weight.shape, len(x), router.top_k
    ids, weights = x.new_empty(rows, j, dtype=torch.int32), x.new_empty(rows, j, dtype=torch.float32)
    y, block_e = torch.empty_like(x), power(experts)
    router_kernels.route[(rows,)](
        x, norm.weight, norm.eps, router.weight, router.bias, y, ids, weights, router.scale,
        K=k, E=experts, J=j, SIGMOID=router.kind == "sigmoid", BIAS=router.bias is not None, NORMALIZE=router.normalize,
        BLOCK_E=block_e, BLOCK_J=power(j), BLOCK_K=min(power(k), max(16384 // block_e, 16)), num_warps=8,
    )  # fmt: skip
    return y, Choice(ids, weights, experts)


def attend(
    qkv: Tensor, positions: Tensor, table: tuple[Tensor, Tensor], cache, attention: Attention, window: int | None
) -> Tensor:
    """Queries, keys and values of one token a row at `positions` [B] → [B, 1, H h], writing the layer's `cache`. `table`:
    cosines and sines [S, h] of all positions."""
    rows, heads, kv, h = len(qkv), attention.num_heads, attention.num_kv_heads, attention.head_size
    length, splits = cache.keys.shape[2], splits_of(cache.keys.shape)
    out = qkv.new_empty(rows, 1, heads * h)
    parts = qkv.new_empty(rows * heads * splits, h, dtype=torch.float32) if splits > 1 else None
    sums = qkv.new_empty(rows * heads * splits, 2, dtype=torch.float32) if splits > 1 else None
    kind, clip = attention.norm_kind, attention.clip
    norms = (None, None) if kind == "none" else (attention.query_norm.weight, attention.key_norm.weight)
    eps = 0.0 if kind == "none" else attention.query_norm.eps
    wide = kind == "width"
    attend_kernels.attend[(rows * kv, splits)](
        qkv, positions, *table, cache.keys, cache.values, cache.unturned, *norms, eps, clip or 0.0, window or 0, h**-0.5,
        out, parts, sums, length,
        H=heads, KH=kv, h=h, SHIFTED=attention.shifted, NORM=kind, CLIP=clip is not None, WINDOW=window is not None,
        SPLITS=splits, BLOCK_G=power(heads // kv, 16), BLOCK_H=power(h, 16), BLOCK_Q=power(heads * h) if wide else 1,
        BLOCK_KV=power(kv * h) if wide else 1, BLOCK_S=KEYS, num_warps=4,
    )  # fmt: skip
    if splits > 1:
        constants = {"h": h, "SPLITS": splits, "BLOCK_H": power(h), "num_warps": 1}
        attend_kernels.merge[(rows * heads,)](parts, sums, out, **constants)
    return out


def splits_of(shape: torch.Size) -> int:
    """Programs that share the keys [B, KH, S, h] of a row and head: one, until that leaves a GPU idle for long."""
    programs, tiles = shape[0] * shape[1], triton.cdiv(shape[2], KEYS)
    return min(power(max(tiles // 8, 1)), power(max(128 // programs, 1)))


def attend_media(q: Tensor, media: tuple[Tensor, Tensor], sight: Sight, norm: Norm) -> Tensor:
    """Queries [B, 1, H h] over the latents that each row sees; `media` [M, R, H, h] → [B, 1, H h]."""
    by = sight.by
    (rows, most), (_, latents, heads, h) = by.media.shape, media[0].shape
    out = torch.empty_like(q)
    attend_kernels.attend_media[(rows * heads,)](
        q, *media, by.media, by.mask, norm.weight, norm.bias, norm.eps, h**-0.5, out,
        most, latents, *media[0].stride()[:3], *media[1].stride()[:3],
        H=heads, h=h, NORM=norm.kind, MASKED=by.mask is not None, BLOCK_H=power(h), BLOCK_R=min(power(latents), 64),
        num_warps=4,
    )  # fmt: skip
    return out


def pick(logits: Tensor, tokens: Tensor, found: Tensor) -> None:
    """Of logits [B, V] the likeliest into `tokens` [B], it and its log-probability into `found`, float32 [B, 2]."""
    rows, vocab = logits.shape
    constants = {"V": vocab, "BLOCK_V": min(power(vocab), 8192), "num_warps": 16}
    pick_kernels.pick[(rows,)](logits, tokens, found, **constants)
