"""Pieces of the kernels of this folder: norms, activations, and the product of a few rows with a tile of a large matrix.

One row is multiplied and added in registers, several are padded to 16 or more for the tensor cores. A tile of a matrix is
[BLOCK_N features out, BLOCK_K features in], wherever these lie in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def begin(EARLY: tl.constexpr):
    """Wait for the kernel before. An EARLY one is on the processors by then ("programmatic dependent launch", from Hopper on)
    and lets the next one come."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


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
def tanh(x):
    """float32 → float32, also where x is small."""
    t, square = tl.exp(-2 * tl.abs(x)), x * x
    large = tl.where(x < 0, -1.0, 1.0) * (1 - t) / (1 + t)
    return tl.where(square < 0.01, x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315)))), large)


@triton.jit
def moments(x_rows, real, eps, K: tl.constexpr, NORM: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr):
    """Mean and 1 / deviation [BLOCK_B] of rows, as `NORM` ("rms", "layer" or "none") takes them."""
    mean = tl.zeros([BLOCK_B], tl.float32)
    scale = tl.full([BLOCK_B], 1.0, tl.float32)
    if NORM == "layer":
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows[:, None] + k[None, :], mask=real[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
            mean += tl.sum(x, axis=1) / K
    if NORM != "none":
        square = tl.zeros([BLOCK_B], tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            inside = real[:, None] & (k < K)[None, :]
            x = tl.load(x_rows[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32)
            x = tl.where(inside, x - mean[:, None], 0.0)
            square += tl.sum(x * x, axis=1)
        scale = tl.rsqrt(square / K + eps)
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
def tile_of(w, n, inside_n, k, inside_k, stride_n, stride_k):
    """Of features out `n` the features in `k`, [BLOCK_N, BLOCK_K]; a large vocabulary's last rows are beyond 32 bits."""
    tile = w + n.to(tl.int64)[:, None] * stride_n + k.to(tl.int64)[None, :] * stride_k
    return tl.load(tile, mask=inside_n[:, None] & inside_k[None, :], other=0.0)


@triton.jit
def activated(x, up, inside, ACT: tl.constexpr, GATED: tl.constexpr):
    """act(x), gated: times what lies at `up`; in float32, rounded as x."""
    y = x
    if ACT != "none":
        y = activate(x.to(tl.float32), ACT)
        if GATED:
            y *= tl.load(up, mask=inside, other=0.0).to(tl.float32)
        y = y.to(x.dtype)
    return y


@triton.jit
def product(
    x_rows, real, mean, scale, norm_w, norm_b, w, n, inside_n, stride_n, stride_k, low, high,
    K: tl.constexpr, NORM: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """norm(x) W or act(x) W over features in from `low` to `high`, for features out `n`: float32 [BLOCK_B, BLOCK_N]."""
    acc = tl.zeros([BLOCK_B, BLOCK_N], tl.float32)
    lanes = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)  # of a single row
    for start in tl.range(low, high, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        weight = tile_of(w, n, inside_n, k, k < K, stride_n, stride_k)
        x = normed(x_rows, real, k, mean, scale, norm_w, norm_b, K, NORM)
        x = activated(x, x_rows[:, None] + K + k[None, :], real[:, None] & (k < K)[None, :], ACT, GATED)
        if BLOCK_B == 1:
            lanes += weight.to(tl.float32) * x.to(tl.float32)
        else:
            acc = tl.dot(x, tl.trans(weight), acc, input_precision="ieee")
    if BLOCK_B == 1:
        acc = tl.sum(lanes, axis=1)[None, :]
    return acc


@triton.jit
def whole_tile(w, n, inside_n, stride_n, stride_k, low, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """Of features out `n` all features in from `low` on, at most BLOCK_K: [BLOCK_N, BLOCK_K]."""
    k = low + tl.arange(0, BLOCK_K)
    return tile_of(w, n, inside_n, k, k < K, stride_n, stride_k)


@triton.jit
def whole_row(x_row, eps, norm_w, norm_b, K: tl.constexpr, NORM: tl.constexpr, BLOCK_K: tl.constexpr):
    """norm(x) of one row of at most BLOCK_K features, [1, BLOCK_K] in float32, rounded as the row."""
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
def hidden(h_row, low, K: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr, BLOCK_K: tl.constexpr):
    """act(h) of one row from `low` on, gated: times its second half; [1, BLOCK_K] in float32, rounded as the row."""
    k = low + tl.arange(0, BLOCK_K)
    h = activated(tl.load(h_row + k, mask=k < K, other=0.0), h_row + K + k, k < K, ACT, GATED)
    return h.to(tl.float32)[None, :]
