"""Products of a few rows with large matrices, the norm before them and what follows in the same kernel.

`expand` is norm(x) W; `project` is three such products in one launch. `contract` and `add` are x + tanh(gate) · Σ_j weight_j
(act(h_j) W_j): `contract` alone does it for a single matrix whose programs are enough to keep a GPU busy; otherwise it leaves
parts, of each expert and of shares of the features in, and `add` adds them up. Gate and up are one wide matrix to `expand`, so
that a program reads wide stretches of it; of a single row `contract` puts the two together as it reads them, else `activation`.

With experts a program has one expert and reads its tile once, for the rows that chose it; a plain matrix is one expert that all
rows chose. Strides say how a matrix lies: [out, in] as `nn.Linear` or [in, out] as `vlm.moe.Experts`. fp16 and bf16 are rounded
after the norm, as the modules do. Weights whose place is known before the kernel before has ended are asked for before.

B rows, J experts a row, E experts, K features in, N features out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlm.kernels.tiles import activated, begin, hidden, moments, product, tanh, whole_row, whole_tile


@triton.jit
def expert_of(ids_ptr, slot, pairs, BY_PAIR: tl.constexpr, BLOCK_P: tl.constexpr):
    """The expert of a slot, -1 where an earlier slot has it: slots are the (row, expert) pairs, or the experts themselves."""
    expert = slot
    if BY_PAIR:
        expert = tl.load(ids_ptr + slot, cache_modifier=".cg")
        p = tl.arange(0, BLOCK_P)
        before = tl.load(ids_ptr + p, mask=p < tl.minimum(pairs, slot), other=-1, cache_modifier=".cg")
        expert = tl.where(tl.max((before == expert).to(tl.int32), axis=0) > 0, -1, expert)
    return expert


@triton.jit
def chosen(ids_ptr, expert, b, rows, J: tl.constexpr, BLOCK_J: tl.constexpr):
    """Which rows `b` chose an expert, and as which of their J."""
    j = tl.arange(0, BLOCK_J)
    here = (b < rows)[:, None] & (j < J)[None, :]
    ids = tl.load(ids_ptr + b[:, None] * J + j[None, :], mask=here, other=-2, cache_modifier=".cg")
    match = (ids == expert) & here
    return tl.max(match.to(tl.int32), axis=1) > 0, tl.sum(tl.where(match, j[None, :], 0), axis=1)


@triton.jit
def expand(
    x_ptr, norm_w, norm_b, eps, w_ptr, bias_ptr, ids_ptr, y_ptr,
    rows, pairs, stride_e, stride_n, stride_k, bias_stride,
    K: tl.constexpr, N: tl.constexpr, J: tl.constexpr, ROUTED: tl.constexpr, BY_PAIR: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [B, K] → y [B, J, N]; a program has a tile of N, a slot and a block of rows."""
    ONCE: tl.constexpr = BLOCK_B == 1 and BLOCK_K >= K
    if ROUTED or not ONCE:
        begin(EARLY)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    inside = n < N
    real, high, expert, base = b < rows, K, 0, 0
    j = tl.zeros([BLOCK_B], tl.int32)
    if ROUTED:
        expert = expert_of(ids_ptr, tl.program_id(1), pairs, BY_PAIR, BLOCK_P)
        real, j = chosen(ids_ptr, expert, b, rows, J, BLOCK_J)
        high = tl.where(tl.max(real.to(tl.int32), axis=0) > 0, K, 0)
        expert = tl.maximum(expert, 0)
        base = expert.to(tl.int64) * stride_e
    if ONCE:
        tile = whole_tile(w_ptr + base, n, inside, stride_n, stride_k, 0, K, BLOCK_K)
        if not ROUTED:
            begin(EARLY)
        x = whole_row(x_ptr + tl.program_id(2) * K, eps, norm_w, norm_b, K, NORM, BLOCK_K)
        y = tl.sum(tile.to(tl.float32) * x, axis=1)[None, :]
    else:
        x_rows = x_ptr + b * K
        mean, scale = moments(x_rows, real, eps, K, NORM, BLOCK_K, BLOCK_B)
        y = product(x_rows, real, mean, scale, norm_w, norm_b, w_ptr + base, n, inside, stride_n, stride_k, 0, high,
                    K, NORM, "none", False, BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
    if BIAS:
        y += tl.load(bias_ptr + expert * bias_stride + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    out = y_ptr + (b * J + j)[:, None] * N + n[None, :]
    tl.store(out, y.to(y_ptr.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def activation(h_ptr, y_ptr, K: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr,
               EARLY: tl.constexpr):  # fmt: skip
    """Rows h [K] → act(h), or [2 K] → act(gate) · up; a program has a row and a tile."""
    begin(EARLY)
    row, k = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h_row = h_ptr + row * (2 * K if GATED else K)
    y = activated(tl.load(h_row + k, mask=k < K, other=0.0), h_row + K + k, k < K, ACT, GATED)
    tl.store(y_ptr + row * K + k, y, mask=k < K)


@triton.jit
def gated(total, n, inside, gate_ptr, GATES: tl.constexpr):
    """tanh(gate) times what is to be added; the gate has GATES numbers, for none 0."""
    if GATES:
        total *= tanh(tl.load(gate_ptr + n % GATES, mask=inside, other=0.0).to(tl.float32))[None, :]
    return total


@triton.jit
def contract(
    h_ptr, w_ptr, bias_ptr, ids_ptr, gate_ptr, sees_ptr, out_ptr,
    rows, pairs, stride_e, stride_n, stride_k, bias_stride,
    K: tl.constexpr, N: tl.constexpr, J: tl.constexpr, ROUTED: tl.constexpr, BY_PAIR: tl.constexpr, BIAS: tl.constexpr,
    ACT: tl.constexpr, GATED: tl.constexpr, GATES: tl.constexpr, SEES: tl.constexpr, SPLITS: tl.constexpr,
    SPAN: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_J: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """act(h) of h [B, J, K], or act(gate) · up of the halves of h [B, J, 2 K], → parts float32 [B, J, SPLITS, N] of its
    products with W_j, each over SPAN features in; a part that is the whole is added to out [B, N], times tanh(gate [N] or [1]),
    in rows where `sees` [B]. A program has a tile of N, a part, a block of rows."""
    ONCE: tl.constexpr = BLOCK_B == 1 and BLOCK_K >= SPAN
    WIDTH: tl.constexpr = 2 * K if GATED else K
    if not ONCE:
        begin(EARLY)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1) % SPLITS
    b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    inside, low = n < N, split * SPAN
    real, high, expert, base = b < rows, tl.minimum(low + SPAN, K), 0, 0
    j = tl.zeros([BLOCK_B], tl.int32)
    if ROUTED:
        expert = expert_of(ids_ptr, tl.program_id(1) // SPLITS, pairs, BY_PAIR, BLOCK_P)
        real, j = chosen(ids_ptr, expert, b, rows, J, BLOCK_J)
        high = tl.where(tl.max(real.to(tl.int32), axis=0) > 0, high, low)
        expert = tl.maximum(expert, 0)
        base = expert.to(tl.int64) * stride_e
    if ONCE:
        tile = whole_tile(w_ptr + base, n, inside, stride_n, stride_k, low, K, BLOCK_K)
        begin(EARLY)  # the experts were chosen before `expand`, so they are known already
        h = hidden(h_ptr + (tl.program_id(2) * J + tl.max(j, axis=0)) * WIDTH, low, K, ACT, GATED, BLOCK_K)
        y = tl.sum(tile.to(tl.float32) * h, axis=1)[None, :]
    else:
        none = tl.zeros([BLOCK_B], tl.float32)
        y = product(h_ptr + (b * J + j) * WIDTH, real, none, none, h_ptr, h_ptr, w_ptr + base, n, inside, stride_n, stride_k,
                    low, high, K, "none", ACT, GATED, BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
    if BIAS:
        bias = tl.load(bias_ptr + expert * bias_stride + n, mask=inside, other=0.0).to(tl.float32)
        y += tl.where(split == 0, bias, 0.0)[None, :]
    store = real[:, None] & inside[None, :]
    if ROUTED or SPLITS > 1:
        tl.store(out_ptr + ((b * J + j) * SPLITS + split)[:, None] * N + n[None, :], y, mask=store)
    else:
        if SEES:
            store = store & (tl.load(sees_ptr + b, mask=real, other=0) != 0)[:, None]
        stream = out_ptr + b[:, None] * N + n[None, :]
        x = tl.load(stream, mask=store, other=0.0).to(tl.float32) + gated(y, n, inside, gate_ptr, GATES)
        tl.store(stream, x.to(out_ptr.dtype.element_ty), mask=store)


@triton.jit
def add(
    parts_ptr, weights_ptr, gate_ptr, sees_ptr, x_ptr,
    N: tl.constexpr, J: tl.constexpr, SPLITS: tl.constexpr, ROUTED: tl.constexpr, GATES: tl.constexpr, SEES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [B, N] += tanh(gate) · Σ_j weight_j Σ parts [B, J, SPLITS, N] in rows where `sees` [B]; a program has a row, a tile."""
    begin(EARLY)
    row, p = tl.program_id(1), tl.arange(0, BLOCK_P)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, here = n < N, p < J * SPLITS
    part = parts_ptr + (row * J * SPLITS + p)[:, None] * N + n[None, :]
    y = tl.load(part, mask=here[:, None] & inside[None, :], other=0.0)
    if ROUTED:
        y *= tl.load(weights_ptr + row * J + p // SPLITS, mask=here, other=0.0)[:, None]
    store = inside
    if SEES:
        store = store & (tl.load(sees_ptr + row) != 0)
    y = gated(tl.sum(y, axis=0)[None, :], n, inside, gate_ptr, GATES)
    stream = x_ptr + row * N + n[None, :]
    x = tl.load(stream, mask=store[None, :], other=0.0).to(tl.float32) + y
    tl.store(stream, x.to(x_ptr.dtype.element_ty), mask=store[None, :])


@triton.jit
def project(
    x_ptr, norm_w, eps, q_ptr, k_ptr, v_ptr, q_bias, k_bias, v_bias, y_ptr, rows,
    K: tl.constexpr, N_Q: tl.constexpr, N_K: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [B, K] → queries, keys and values of norm(x) side by side, y [B, N_Q + 2 N_K]; matrices are [out, K]."""
    ONCE: tl.constexpr = BLOCK_B == 1 and BLOCK_K >= K
    if not ONCE:
        begin(EARLY)
    tiles_q: tl.constexpr = (N_Q + BLOCK_N - 1) // BLOCK_N
    tiles_k: tl.constexpr = (N_K + BLOCK_N - 1) // BLOCK_N
    tile, w, bias, start, size = tl.program_id(0), q_ptr, q_bias, 0, N_Q
    if tile >= tiles_q + tiles_k:
        tile, w, bias, start, size = tile - tiles_q - tiles_k, v_ptr, v_bias, N_Q + N_K, N_K
    elif tile >= tiles_q:
        tile, w, bias, start, size = tile - tiles_q, k_ptr, k_bias, N_Q, N_K
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    real, inside, x_rows = b < rows, n < size, x_ptr + b * K
    if ONCE:
        weight = whole_tile(w, n, inside, K, 1, 0, K, BLOCK_K)
        begin(EARLY)
        x = whole_row(x_ptr + tl.program_id(1) * K, eps, norm_w, norm_w, K, "rms", BLOCK_K)
        y = tl.sum(weight.to(tl.float32) * x, axis=1)[None, :]
    else:
        mean, scale = moments(x_rows, real, eps, K, "rms", BLOCK_K, BLOCK_B)
        y = product(x_rows, real, mean, scale, norm_w, norm_w, w, n, inside, K, 1, 0, K,
                    K, "rms", "none", False, BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
    if BIAS:
        y += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    out = y_ptr + (b * (N_Q + 2 * N_K))[:, None] + (start + n)[None, :]
    tl.store(out, y.to(y_ptr.dtype.element_ty), mask=real[:, None] & inside[None, :])
