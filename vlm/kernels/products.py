"""Products of a few rows with large matrices, the norm before them and what follows in the same kernel.

`expand` is act(norm(x) W_gate) · (norm(x) W_up), or one product alone; `contract` is x + scale · Σ_j weight_j (h_j W_j). With
experts a program has one expert and reads its tile once, for the rows that chose it; a plain matrix is one expert that all rows
chose. `project` is `expand` with three matrices in one launch.

One row is multiplied and added in registers; several are padded to 16 or more for the tensor cores. Strides say how a matrix
lies: [out, in] as `nn.Linear` or [in, out] as `vlm.moe.Experts`. fp16 and bf16 are rounded after the norm, as the modules do.

B rows, J experts a row, E experts, K features in, N features out.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(x, ACT: tl.constexpr):
    """float32 → float32; the names are those of `vlm.activation`."""
    if ACT == "silu":
        x = x / (1 + tl.exp(-x))
    elif ACT == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif ACT == "gelu_tanh":
        x = x / (1 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    elif ACT == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def moments(x_rows, real, eps, K: tl.constexpr, NORM: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr):
    """Mean and 1 / deviation [BLOCK_B] of rows, as `NORM` ("rms", "layer" or "none") takes them."""
    mean = tl.zeros([BLOCK_B], tl.float32)
    scale = tl.full([BLOCK_B], 1.0, tl.float32)
    if NORM != "none":
        total = tl.zeros([BLOCK_B], tl.float32)
        square = tl.zeros([BLOCK_B], tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows[:, None] + k[None, :], mask=real[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
            total += tl.sum(x, axis=1)
            square += tl.sum(x * x, axis=1)
        if NORM == "layer":
            mean = total / K
        scale = tl.rsqrt(tl.maximum(square / K - mean * mean, 0.0) + eps)
    return mean, scale


@triton.jit
def normed(x_rows, real, k, mean, scale, norm_w, norm_b, K: tl.constexpr, NORM: tl.constexpr):
    """Features `k` of rows [BLOCK_B, BLOCK_K], in the rows' own precision."""
    inside = k < K
    raw = tl.load(x_rows[:, None] + k[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    x = raw
    if NORM != "none":
        x = (raw.to(tl.float32) - mean[:, None]) * scale[:, None]
        x = x * tl.load(norm_w + k, mask=inside, other=0.0).to(tl.float32)[None, :]
        if NORM == "layer":
            x = x + tl.load(norm_b + k, mask=inside, other=0.0).to(tl.float32)[None, :]
        x = x.to(raw.dtype)
    return x


@triton.jit
def product(
    x_rows, real, mean, scale, norm_w, norm_b, w, n, inside_n, stride_n, stride_k, reach,
    K: tl.constexpr, NORM: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """norm(x) W for output features `n`: float32 [BLOCK_B, BLOCK_N]. `reach` is K, or 0 where there is nothing to do."""
    acc = tl.zeros([BLOCK_B, BLOCK_N], tl.float32)
    lanes = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)  # of a single row
    for start in tl.range(0, reach, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        tile = w + n[:, None] * stride_n + k[None, :] * stride_k
        weight = tl.load(tile, mask=inside_n[:, None] & (k < K)[None, :], other=0.0)
        x = normed(x_rows, real, k, mean, scale, norm_w, norm_b, K, NORM)
        if BLOCK_B == 1:
            lanes += weight.to(tl.float32) * x.to(tl.float32)
        else:
            acc = tl.dot(x, tl.trans(weight), acc, input_precision="ieee")
    if BLOCK_B == 1:
        acc = tl.sum(lanes, axis=1)[None, :]
    return acc


@triton.jit
def whole_tile(w, n, inside_n, stride_n, stride_k, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """All features in of output features `n`: [BLOCK_N, BLOCK_K] with BLOCK_K ≥ K."""
    k = tl.arange(0, BLOCK_K)
    tile = w + n[:, None] * stride_n + k[None, :] * stride_k
    return tl.load(tile, mask=inside_n[:, None] & (k < K)[None, :], other=0.0)


@triton.jit
def whole_row(x_row, eps, norm_w, norm_b, K: tl.constexpr, NORM: tl.constexpr, BLOCK_K: tl.constexpr):
    """norm(x) of one row, [1, BLOCK_K] in float32, rounded as the row."""
    k = tl.arange(0, BLOCK_K)
    inside = k < K
    raw = tl.load(x_row + k, mask=inside, other=0.0)
    x = raw.to(tl.float32)
    if NORM != "none":
        weight = tl.load(norm_w + k, mask=inside, other=0.0).to(tl.float32)
        if NORM == "layer":
            x = tl.where(inside, x - tl.sum(x, axis=0) / K, 0.0)
        x = x * tl.rsqrt(tl.sum(x * x, axis=0) / K + eps) * weight
        if NORM == "layer":
            x += tl.load(norm_b + k, mask=inside, other=0.0).to(tl.float32)
        x = x.to(raw.dtype).to(tl.float32)
    return x[None, :]


@triton.jit
def matches(ids_ptr, b, rows, expert, J: tl.constexpr, BLOCK_J: tl.constexpr):
    """Which of their J experts is `expert`, for rows `b`: bool [BLOCK_B, BLOCK_J], and where these stand in [B, J]."""
    j = tl.arange(0, BLOCK_J)
    here = (b < rows)[:, None] & (j < J)[None, :]
    place = b[:, None] * J + j[None, :]
    return (tl.load(ids_ptr + place, mask=here, other=-2) == expert) & here, place


@triton.jit
def expert_of(ids_ptr, slot, pairs, BY_PAIR: tl.constexpr, BLOCK_P: tl.constexpr):
    """The expert of a slot, -1 where an earlier slot has it: slots are the (row, expert) pairs, or the experts themselves."""
    expert = slot
    if BY_PAIR:
        expert = tl.load(ids_ptr + slot)
        p = tl.arange(0, BLOCK_P)
        before = tl.load(ids_ptr + p, mask=p < tl.minimum(pairs, slot), other=-1)
        expert = tl.where(tl.max((before == expert).to(tl.int32), axis=0) > 0, -1, expert)
    return expert


@triton.jit
def expand(
    x_ptr, norm_w, norm_b, eps, gate_ptr, up_ptr, gate_bias, up_bias, ids_ptr, y_ptr,
    rows, pairs, stride_e, stride_n, stride_k, bias_stride,
    K: tl.constexpr, N: tl.constexpr, J: tl.constexpr, ROUTED: tl.constexpr, BY_PAIR: tl.constexpr, GATED: tl.constexpr,
    NORM: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x [B, K] → y [B, J, N]; a program has a slot, a tile of N and a block of rows."""
    b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    real, reach, expert, base = b < rows, K, 0, 0
    j = tl.zeros([BLOCK_B], tl.int32)
    if ROUTED:
        expert = expert_of(ids_ptr, tl.program_id(1), pairs, BY_PAIR, BLOCK_P)
        match, _ = matches(ids_ptr, b, rows, expert, J, BLOCK_J)
        real, j = tl.max(match.to(tl.int32), axis=1) > 0, tl.sum(tl.where(match, tl.arange(0, BLOCK_J)[None, :], 0), axis=1)
        reach = tl.where(tl.max(real.to(tl.int32), axis=0) > 0, K, 0)
        expert = tl.maximum(expert, 0)
        base = expert.to(tl.int64) * stride_e
    if BLOCK_B == 1 and BLOCK_K >= K:  # the weights are asked for first, all at once
        gate = whole_tile(gate_ptr + base, n, inside, stride_n, stride_k, K, BLOCK_K)
        up = whole_tile(up_ptr + base, n, inside, stride_n, stride_k, K, BLOCK_K) if GATED else gate
        x = whole_row(x_ptr + tl.program_id(2) * K, eps, norm_w, norm_b, K, NORM, BLOCK_K)
        y, up = tl.sum(gate.to(tl.float32) * x, axis=1)[None, :], tl.sum(up.to(tl.float32) * x, axis=1)[None, :]
    else:
        x_rows = x_ptr + b * K
        mean, scale = moments(x_rows, real, eps, K, NORM, BLOCK_K, BLOCK_B)
        y = product(x_rows, real, mean, scale, norm_w, norm_b, gate_ptr + base, n, inside, stride_n, stride_k, reach,
                    K, NORM, BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
        up = y
        if GATED:
            up = product(x_rows, real, mean, scale, norm_w, norm_b, up_ptr + base, n, inside, stride_n, stride_k, reach,
                         K, NORM, BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
    if BIAS:
        y += tl.load(gate_bias + expert * bias_stride + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = activate(y, ACT)
    if GATED:
        if BIAS:
            up += tl.load(up_bias + expert * bias_stride + n, mask=inside, other=0.0).to(tl.float32)[None, :]
        y = y * up
    out = y_ptr + (b * J + j)[:, None] * N + n[None, :]
    tl.store(out, y.to(y_ptr.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def contract(
    h_ptr, w_ptr, bias_ptr, ids_ptr, weights_ptr, scale_ptr, sees_ptr, x_ptr,
    rows, pairs, slots, stride_e, stride_n, stride_k, bias_stride,
    K: tl.constexpr, N: tl.constexpr, J: tl.constexpr, ROUTED: tl.constexpr, BY_PAIR: tl.constexpr, BIAS: tl.constexpr,
    SCALED: tl.constexpr, SEES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x [B, N] += scale [N] · Σ_j weight_j (h [B, J, K]_j W_j), in rows where `sees` [B]; a program has a tile of N."""
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    total = tl.zeros([BLOCK_B, BLOCK_N], tl.float32)
    none = tl.zeros([BLOCK_B], tl.float32)
    for slot in range(0, slots):
        real, reach, expert, base = b < rows, K, 0, 0
        j = tl.zeros([BLOCK_B], tl.int32)
        if ROUTED:
            expert = expert_of(ids_ptr, slot, pairs, BY_PAIR, BLOCK_P)
            match, place = matches(ids_ptr, b, rows, expert, J, BLOCK_J)
            real, j = tl.max(match.to(tl.int32), axis=1) > 0, tl.sum(tl.where(match, tl.arange(0, BLOCK_J)[None, :], 0), axis=1)
            reach = tl.where(tl.max(real.to(tl.int32), axis=0) > 0, K, 0)
            expert = tl.maximum(expert, 0)
            base = expert.to(tl.int64) * stride_e
        if BLOCK_B == 1 and BLOCK_K >= K:
            tile = whole_tile(w_ptr + base, n, inside, stride_n, stride_k, K, BLOCK_K)
            h = whole_row(h_ptr + (tl.program_id(1) * J + tl.max(j, axis=0)) * K, 0.0, h_ptr, h_ptr, K, "none", BLOCK_K)
            y = tl.sum(tile.to(tl.float32) * h, axis=1)[None, :]
        else:
            y = product(h_ptr + (b * J + j) * K, real, none, none, h_ptr, h_ptr, w_ptr + base, n, inside, stride_n, stride_k,
                        reach, K, "none", BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
        if BIAS:
            y += tl.load(bias_ptr + expert * bias_stride + n, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ROUTED:
            y *= tl.sum(tl.load(weights_ptr + place, mask=match, other=0.0), axis=1)[:, None]
        total += y
    if SCALED:
        total *= tl.load(scale_ptr + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    store = (b < rows)[:, None] & inside[None, :]
    if SEES:
        store = store & (tl.load(sees_ptr + b, mask=b < rows, other=0) != 0)[:, None]
    stream = x_ptr + b[:, None] * N + n[None, :]
    tl.store(stream, (tl.load(stream, mask=store, other=0.0).to(tl.float32) + total).to(x_ptr.dtype.element_ty), mask=store)


@triton.jit
def project(
    x_ptr, norm_w, eps, q_ptr, k_ptr, v_ptr, q_bias, k_bias, v_bias, y_ptr, rows,
    K: tl.constexpr, N_Q: tl.constexpr, N_K: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x [B, K] → queries, keys and values of norm(x) side by side, y [B, N_Q + 2 N_K]; matrices are [out, K]."""
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
    if BLOCK_B == 1 and BLOCK_K >= K:
        weight = whole_tile(w, n, inside, K, 1, K, BLOCK_K)
        x = whole_row(x_ptr + tl.program_id(1) * K, eps, norm_w, norm_w, K, "rms", BLOCK_K)
        y = tl.sum(weight.to(tl.float32) * x, axis=1)[None, :]
    else:
        mean, scale = moments(x_rows, real, eps, K, "rms", BLOCK_K, BLOCK_B)
        y = product(x_rows, real, mean, scale, norm_w, norm_w, w, n, inside, K, 1, K,
                    K, "rms", BLOCK_B, BLOCK_N, BLOCK_K, STAGES)  # fmt: skip
    if BIAS:
        y += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    out = y_ptr + (b * (N_Q + 2 * N_K))[:, None] + (start + n)[None, :]
    tl.store(out, y.to(y_ptr.dtype.element_ty), mask=real[:, None] & inside[None, :])
