"""The router of `vlm.moe` for a few rows: norm → scores in float32 → the k experts of each row and their weights.

B rows, K features, E experts, J experts a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlm.kernels.tiles import begin, moments, normed, whole_row, whole_tile


@triton.jit
def route(
    x_ptr, norm_w, eps, w_ptr, bias_ptr, y_ptr, ids_ptr, weights_ptr, routed_scale,
    K: tl.constexpr, E: tl.constexpr, J: tl.constexpr, SIGMOID: tl.constexpr, BIAS: tl.constexpr, NORMALIZE: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [B, K] → norm(x) [B, K], ids int32 [B, J], highest score first, and weights float32 [B, J]; a program has a row."""
    row, e = tl.program_id(0), tl.arange(0, BLOCK_E)
    if BLOCK_K >= K:
        weight = whole_tile(w_ptr, e, e < E, K, 1, 0, K, BLOCK_K)
        begin(EARLY)
        k = tl.arange(0, BLOCK_K)
        x = whole_row(x_ptr + row * K, eps, norm_w, norm_w, K, "rms", BLOCK_K)
        tl.store(y_ptr + row * K + k[None, :], x.to(y_ptr.dtype.element_ty), mask=(k < K)[None, :])
        lanes = x * weight.to(tl.float32)
    else:
        begin(EARLY)
        b = row + tl.arange(0, 1)
        mean, scale = moments(x_ptr + b * K, b >= 0, eps, K, "rms", BLOCK_K, 1)
        lanes = tl.zeros([BLOCK_E, BLOCK_K], tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            weight = whole_tile(w_ptr, e, e < E, K, 1, start, K, BLOCK_K)
            x = normed(x_ptr + b * K, b >= 0, k, mean, scale, norm_w, norm_w, K, "rms")
            tl.store(y_ptr + row * K + k[None, :], x, mask=(k < K)[None, :])
            lanes += x.to(tl.float32) * weight.to(tl.float32)
    logits = tl.where(e < E, tl.sum(lanes, axis=1), float("-inf"))
    if SIGMOID:
        scores = 1 / (1 + tl.exp(-logits))
    else:
        scores = tl.exp(logits - tl.max(logits, axis=0))
        scores = scores / tl.sum(scores, axis=0)
    rank = scores
    if BIAS:
        rank = scores + tl.load(bias_ptr + e, mask=e < E, other=0.0)
    rank = tl.where(rank == rank, rank, -1e30)  # not a number: J experts all the same, each once
    rank = tl.where(e < E, rank, float("-inf"))
    j = tl.arange(0, BLOCK_J)
    ids = tl.zeros([BLOCK_J], tl.int32)
    weights = tl.zeros([BLOCK_J], tl.float32)
    for place in range(J):
        best = tl.argmax(rank, axis=0)
        ids = tl.where(j == place, best, ids)
        weights = tl.where(j == place, tl.sum(tl.where(e == best, scores, 0.0), axis=0), weights)
        rank = tl.where(e == best, float("-inf"), rank)
    if NORMALIZE:
        weights = weights / (tl.sum(weights, axis=0) + 1e-20)
    tl.store(ids_ptr + row * J + j, ids, mask=j < J)
    tl.store(weights_ptr + row * J + j, weights * routed_scale, mask=j < J)
