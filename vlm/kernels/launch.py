"""The kernels as functions of tensors: which tiles, which grid, fresh results.

TILES is what measured best on an H100 for bf16; other shapes and types take the same, and a GPU with too little shared memory
for them takes the largest that fit.

B rows, J experts a row, K features in, N features out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vlm.attention import Attention
from vlm.cache import LayerCache
from vlm.config import Activation
from vlm.kernels import attend as attend_kernels
from vlm.kernels import pick as pick_kernels
from vlm.kernels import products
from vlm.kernels import router as router_kernels
from vlm.kernels.operands import Choice, Matrix, Norm
from vlm.moe import Router
from vlm.sight import Rows, Sight

EARLY = True  # from Hopper on kernels are launched before the one before has ended
KEYS = 32768  # bytes of keys of the cache that are read at a time, at most
STRETCH = 64  # keys that are worth a program of their own
MOST_ROWS = 64  # a program takes; more rows are another program's, which reads the same weights from the GPU's cache


class Tile(NamedTuple):
    """Of a weight: features out, features in (half as many of four bytes); loads under way at a time; warps."""

    n: int
    k: int
    stages: int
    warps: int


# By kernel, whether there is one row alone, and whether the features in lie side by side in memory.
TILES = {
    ("project", True, True): Tile(4, 2048, 1, 4),
    ("project", False, True): Tile(32, 256, 3, 4),
    ("expand", True, True): Tile(4, 2048, 1, 4),
    ("expand", True, False): Tile(16, 2048, 1, 8),  # of wider rows the tensor cores take what fits
    ("expand", False, True): Tile(32, 256, 3, 4),
    ("expand", False, False): Tile(64, 256, 2, 4),
    ("experts", False, False): Tile(128, 128, 2, 4),  # of `expand`, each row to its own
    ("contract", True, True): Tile(4, 2048, 1, 4),
    ("contract", True, False): Tile(64, 256, 1, 4),
    ("contract", False, True): Tile(16, 256, 4, 4),
    ("contract", False, False): Tile(64, 128, 3, 4),
}
PROGRAMS = 256  # of `contract` for several rows: as many parts are made as it takes, of PART blocks of features in at least
PART = 4
LEAST = {"STAGES": 1, "num_stages": 1, "BLOCK_K": 16, "BLOCK_S": 16}  # constants that may be halved, the first one first


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch on the device of the first argument, with as much at a time as its shared memory holds."""
    early = _early(arguments[0])
    with torch.cuda.device_of(arguments[0]):
        while True:
            try:
                kernel[grid](*arguments, **constants, **early)
                return
            except triton.OutOfResources:
                name = next((name for name, least in LEAST.items() if constants.get(name, least) > least), None)
                if name is None:
                    raise
                constants[name] //= 2


def _early(x: Tensor) -> dict[str, bool]:
    """Options of each launch that say whether it may come early."""
    early = EARLY and x.is_cuda and torch.version.cuda and torch.cuda.get_device_capability(x.device)[0] >= 9
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


def power(n: int, least: int = 1) -> int:
    return max(triton.next_power_of_2(n), least)


def block_k(tile: Tile, k: int, x: Tensor) -> int:
    return min(tile.k * 2 // x.element_size(), power(k, 16))


def rows_of(rows: int, alone: bool) -> int:
    """Rows that a program takes: one in registers, or what the tensor cores want."""
    return 1 if alone else min(power(rows, 16), MOST_ROWS)


def _blocks(kernel: str, x: Tensor, matrix: Matrix, choice: Choice | None) -> tuple[int, dict[str, int]]:
    """Programs along N, and the constants of `expand` and `contract`."""
    rows, (k, n) = len(x), matrix.size
    side_by_side = matrix.strides[2] == 1
    tile = TILES[kernel, True, side_by_side]
    alone = rows == 1 and (kernel == "contract" or side_by_side or block_k(tile, k, x) >= k)
    if not alone:
        tile = TILES["experts" if kernel == "expand" and choice and not side_by_side else kernel, False, side_by_side]
    by_pair = choice is not None and choice.by_pair
    constants = {
        "K": k,
        "N": n,
        "J": 1 if choice is None else choice.ids.shape[1],
        "ROUTED": choice is not None,
        "BY_PAIR": by_pair,
        "BLOCK_B": rows_of(rows, alone),
        "BLOCK_J": 1 if choice is None else power(choice.ids.shape[1]),
        "BLOCK_P": power(choice.ids.numel()) if by_pair else 1,
        "BLOCK_N": tile.n,
        "BLOCK_K": block_k(tile, k, x),
        "STAGES": tile.stages,
        "num_warps": tile.warps,
    }
    return triton.cdiv(n, tile.n), constants


def expand(x: Tensor, norm: Norm, matrix: Matrix, choice: Choice | None = None) -> Tensor:
    """[B, K] → norm(x) W, [B, J, N]."""
    rows, (_, n), bias = len(x), matrix.size, matrix.bias
    tiles, constants = _blocks("expand", x, matrix, choice)
    y = x.new_empty(rows, constants["J"], n)
    grid = (tiles, choice.slots if choice else 1, triton.cdiv(rows, constants["BLOCK_B"]))
    run(
        products.expand, grid,
        x, norm.weight, norm.bias, norm.eps, matrix.weight, bias, x if choice is None else choice.ids, y,
        rows, rows * constants["J"], *matrix.strides, 0 if bias is None else bias.stride(0),
        **constants, NORM=norm.kind, BIAS=bias is not None,
    )  # fmt: skip
    return y


def contract(
    h: Tensor, matrix: Matrix, x: Tensor, act: Activation | None = None, choice: Choice | None = None,
    gate: Tensor | None = None, sees: Tensor | None = None,
) -> None:  # fmt: skip
    """Add to x [B, N], in place, tanh(gate [N] or [1]) times the weighted sum of act(h) W, in rows where `sees` [B]; h is
    [B, J, K], or [B, J, 2 K] with the gate of its second half in the first."""
    (rows, n), bias, slots = x.shape, matrix.bias, choice.slots if choice else 1
    if rows > 1 and act is not None:
        h, act = _activated(h, matrix.size[0], act), None
    tiles, constants = _blocks("contract", x, matrix, choice)
    splits, span = _parts(tiles * slots, constants, matrix)
    alone = choice is None and splits == 1
    out = x if alone else x.new_empty(rows, constants["J"], splits, n, dtype=torch.float32)
    hidden = {"ACT": act or "none", "GATED": h.shape[-1] > matrix.size[0]}
    ends = {"GATES": 0 if gate is None else gate.numel(), "SEES": sees is not None, "SPLITS": splits}
    grid = (tiles, slots * splits, triton.cdiv(rows, constants["BLOCK_B"]))
    run(
        products.contract, grid,
        h, matrix.weight, bias, h if choice is None else choice.ids, gate, sees, out,
        rows, rows * constants["J"], *matrix.strides, 0 if bias is None else bias.stride(0),
        **constants, **hidden, **ends, BIAS=bias is not None, SPAN=span,
    )  # fmt: skip
    if not alone:
        block = min(power(n), 256)
        run(
            products.add, (triton.cdiv(n, block), rows),
            out, h if choice is None else choice.weights, gate, sees, x,
            N=n, J=constants["J"], ROUTED=choice is not None, BLOCK_P=power(constants["J"] * splits), BLOCK_N=block, **ends,
        )  # fmt: skip


def _activated(h: Tensor, k: int, act: Activation) -> Tensor:
    """act(h), gated where h has 2 k features. (Of a single row each program of `contract` does it as it reads.)"""
    y, block = h.new_empty(*h.shape[:-1], k), min(power(k), 1024)
    grid = (triton.cdiv(k, block), h[..., 0].numel())
    run(products.activation, grid, h, y, K=k, ACT=act, GATED=h.shape[-1] > k, BLOCK=block)
    return y


def _parts(programs: int, constants: dict[str, int], matrix: Matrix) -> tuple[int, int]:
    """Into how many parts the features in are split, and how many features a part has. Of a matrix that lies [in, out] a
    single row reads tiles that are parts themselves."""
    k, block = matrix.size[0], constants["BLOCK_K"]
    blocks = triton.cdiv(k, block)
    if matrix.strides[2] == 1:
        return 1, blocks * block
    splits = blocks if constants["BLOCK_B"] == 1 else max(1, min(triton.cdiv(PROGRAMS, programs), blocks // PART))
    span = triton.cdiv(blocks, splits) * block
    return triton.cdiv(k, span), span


def project(x: Tensor, norm: Norm, attention: Attention) -> Tensor:
    """[B, K] → queries, keys and values of norm(x), [B, (H + 2 KH) h]."""
    rows, (n_q, k), n_k = len(x), attention.query.weight.shape, attention.key.weight.shape[0]
    tile, block = TILES["project", rows == 1, True], rows_of(rows, rows == 1)
    y = x.new_empty(rows, n_q + 2 * n_k)
    grid = (triton.cdiv(n_q, tile.n) + 2 * triton.cdiv(n_k, tile.n), triton.cdiv(rows, block))
    parts = (attention.query, attention.key, attention.value)
    run(
        products.project, grid,
        x, norm.weight, norm.eps, *(part.weight for part in parts), *(part.bias for part in parts), y, rows,
        K=k, N_Q=n_q, N_K=n_k, BIAS=attention.query.bias is not None, BLOCK_B=block, BLOCK_N=tile.n,
        BLOCK_K=block_k(tile, k, x), STAGES=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return y


def route(x: Tensor, norm: Norm, router: Router) -> tuple[Tensor, Choice]:
    """[B, K] → norm(x) and its experts."""
    (experts, k), rows, j = router.weight.shape, len(x), router.top_k
    ids, weights = x.new_empty(rows, j, dtype=torch.int32), x.new_empty(rows, j, dtype=torch.float32)
    y, block_e = torch.empty_like(x), power(experts)
    run(
        router_kernels.route, (rows,),
        x, norm.weight, norm.eps, router.weight, router.bias, y, ids, weights, router.scale,
        K=k, E=experts, J=j, SIGMOID=router.kind == "sigmoid", BIAS=router.bias is not None, NORMALIZE=router.normalize,
        BLOCK_E=block_e, BLOCK_J=power(j), BLOCK_K=min(power(k), max(32768 // block_e, 16)), num_warps=16,
    )  # fmt: skip
    return y, Choice(ids, weights, experts)


def attend(
    qkv: Tensor, positions: Tensor, table: tuple[Tensor, Tensor], cache: LayerCache, attention: Attention, window: int | None
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
    run(
        attend_kernels.attend, (rows * kv, splits),
        qkv, positions, *table, cache.keys, cache.values, cache.unturned, *norms, eps, clip or 0.0, window or 0, h**-0.5,
        out, parts, sums, length,
        H=heads, KH=kv, h=h, SHIFTED=attention.shifted, NORM=kind, CLIP=clip is not None, WINDOW=window is not None,
        SPLITS=splits, BLOCK_G=power(heads // kv, 16), BLOCK_H=power(h, 16), BLOCK_Q=power(heads * h) if wide else 1,
        BLOCK_KV=power(kv * h) if wide else 1, BLOCK_S=keys_of(cache.keys, splits), num_warps=8, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        run(attend_kernels.merge, (rows * heads,), parts, sums, out, h=h, SPLITS=splits, BLOCK_H=power(h), num_warps=1)
    return out


def splits_of(shape: torch.Size) -> int:
    """Programs that share the keys [B, KH, S, h] of a row and head: one, until that leaves a GPU idle for long."""
    programs, stretches = shape[0] * shape[1], triton.cdiv(shape[2], STRETCH)
    return min(power(stretches), power(max(128 // programs, 1)))


def keys_of(keys: Tensor, splits: int) -> int:
    """How many of the keys [B, KH, S, h] a program reads at a time: its share, from 16 to 128."""
    length, h = keys.shape[2:]
    most = min(KEYS // (power(h, 16) * keys.element_size()), 128)
    return max(min(power(triton.cdiv(length, splits)), most), 16)


def attend_media(q: Tensor, media: tuple[Tensor, Tensor], sight: Sight, norm: Norm) -> Tensor:
    """Queries [B, 1, H h] over the latents that each row sees; `media` [M, R, H, h] → [B, 1, H h]."""
    by = sight.by
    assert isinstance(by, Rows)
    (rows, most), (_, latents, heads, h) = by.media.shape, media[0].shape
    out = torch.empty_like(q)
    run(
        attend_kernels.attend_media, (rows * heads,),
        q, *media, by.media, by.mask, norm.weight, norm.bias, norm.eps, h**-0.5, out,
        most, latents, *media[0].stride()[:3], *media[1].stride()[:3],
        H=heads, h=h, NORM=norm.kind, MASKED=by.mask is not None, BLOCK_H=power(h), BLOCK_R=min(power(latents), 64),
        num_warps=4,
    )  # fmt: skip
    return out


def pick(logits: Tensor, tokens: Tensor, found: Tensor) -> None:
    """Of logits [B, V] the likeliest into `tokens` [B], it and its log-probability into `found`, float32 [B, 2]."""
    rows, vocab = logits.shape
    run(pick_kernels.pick, (rows,), logits, tokens, found, V=vocab, BLOCK_V=min(power(vocab), 8192), num_warps=16)
