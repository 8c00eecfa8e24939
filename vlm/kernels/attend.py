"""Attention of one new token a row: over the row's own keys up to its position, and over the latents of its images.

`attend` also norms, clips and turns the new query and key and writes the cache, as `vlm.attention` does. It reads the keys
that the token may see and no others, so that a long cache costs nothing until it is full. With SPLITS above 1 a row's keys are
shared out among programs, and `merge` puts their parts together (Dao et al., 2023, "Flash-Decoding").

B rows, H query heads, G of them a key head, h head size, S the cache's length.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlm.kernels.tiles import begin


@triton.jit
def prepared(base, heads, i, wide, norm_w, eps, clip,
             h: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr, CLIP: tl.constexpr):  # fmt: skip
    """Heads [n] of a row at `base`, normed and clipped: [n, BLOCK_H] at features i, and the features they are turned with."""
    half = (i + h // 2) % h
    x = _prepared(base, heads, i, i < h, wide, norm_w, eps, clip, h, WIDTH, NORM, CLIP)
    y = _prepared(base, heads, half, i < h, wide, norm_w, eps, clip, h, WIDTH, NORM, CLIP)
    return x, tl.where(i < h // 2, -y, y)


@triton.jit
def _prepared(base, heads, i, inside, wide, norm_w, eps, clip,
              h: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr, CLIP: tl.constexpr):  # fmt: skip
    place = heads[:, None] * h + i[None, :]
    x = tl.load(base + place, mask=inside[None, :], other=0.0).to(tl.float32)
    if NORM == "width":
        every = tl.load(base + wide, mask=wide < WIDTH, other=0.0).to(tl.float32)
        x = x * tl.rsqrt(tl.sum(every * every, axis=0) / WIDTH + eps)
        x = x * tl.load(norm_w + place, mask=inside[None, :], other=0.0).to(tl.float32)
    if CLIP:
        x = tl.minimum(tl.maximum(x, -clip), clip)
    if NORM == "head":
        x = x * tl.rsqrt(tl.sum(x * x, axis=1) / h + eps)[:, None]
        x = x * tl.load(norm_w + i, mask=inside, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def grown(m, total, acc, q, kt, vt, ok, scale):
    """The softmax so far (largest score, sum, weighted values) with another tile of keys [BLOCK_S, BLOCK_H]."""
    scores = tl.where(ok[None, :], tl.dot(q, tl.trans(kt), input_precision="ieee") * scale, float("-inf"))
    largest = tl.maximum(m, tl.max(scores, axis=1))
    p = tl.exp(scores - largest[:, None])
    shrink = tl.exp(m - largest)
    acc = acc * shrink[:, None] + tl.dot(p.to(vt.dtype), vt, input_precision="ieee")
    return largest, total * shrink + tl.sum(p, axis=1), acc


@triton.jit
def over(keys_ptr, values_ptr, cache, low, high, m, total, acc, q, inside, scale, h: tl.constexpr, BLOCK_S: tl.constexpr):
    """The softmax grown by the keys from `low` to `high` of a row and head, which lie from `cache` on."""
    for start in range(low, high, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        ok = s < high
        tile = cache[None, :] + s[:, None] * h
        kt = tl.load(keys_ptr + tile, mask=ok[:, None] & inside[None, :], other=0.0)
        vt = tl.load(values_ptr + tile, mask=ok[:, None] & inside[None, :], other=0.0)
        m, total, acc = grown(m, total, acc, q, kt, vt, ok, scale)
    return m, total, acc


@triton.jit
def previous(k, k_turn, before, position, split, i, h: tl.constexpr):
    """The key `before` a new one, in its place; a row's first keeps its own. The new one is left for the next."""
    inside = (i < h)[None, :]
    if split == 0:
        tl.store((before + h + i)[None, :], k.to(before.dtype.element_ty), mask=inside)
    if position > 0:
        k = tl.load((before + i)[None, :], mask=inside, other=0.0).to(tl.float32)
        k_turn = tl.load((before + (i + h // 2) % h)[None, :], mask=inside, other=0.0).to(tl.float32)
        k_turn = tl.where((i < h // 2)[None, :], -k_turn, k_turn)
    return k, k_turn


@triton.jit
def attend(
    qkv_ptr, positions_ptr, cos_ptr, sin_ptr, keys_ptr, values_ptr, unturned_ptr, q_norm, k_norm, eps, clip, window, scale,
    out_ptr, parts_ptr, sums_ptr, S,
    H: tl.constexpr, KH: tl.constexpr, h: tl.constexpr, SHIFTED: tl.constexpr, NORM: tl.constexpr, CLIP: tl.constexpr,
    WINDOW: tl.constexpr, SPLITS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_KV: tl.constexpr, BLOCK_S: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """qkv [B, H + 2 KH, h] → out [B, H, h], or parts of it; a program has a row, a key head and a share of the keys."""
    begin(EARLY)
    row, kv, split = tl.program_id(0) // KH, tl.program_id(0) % KH, tl.program_id(1)
    G: tl.constexpr = H // KH
    position = tl.load(positions_ptr + row).to(tl.int32)
    g, i = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_H)
    inside = i < h
    cos = tl.load(cos_ptr + position * h + i, mask=inside, other=0.0)[None, :]
    sin = tl.load(sin_ptr + position * h + i, mask=inside, other=0.0)[None, :]
    base = qkv_ptr + row * (H + 2 * KH) * h
    heads, own = kv * G + tl.minimum(g, G - 1), kv + tl.arange(0, 1)
    q, q_turn = prepared(base, heads, i, tl.arange(0, BLOCK_Q), q_norm, eps, clip, h, H * h, NORM, CLIP)
    k, k_turn = prepared(base + H * h, own, i, tl.arange(0, BLOCK_KV), k_norm, eps, clip, h, KH * h, NORM, CLIP)
    v = tl.load(base + (H + KH) * h + own[:, None] * h + i[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
    if CLIP:
        v = tl.minimum(tl.maximum(v, -clip), clip)
    cache = (row * KH + kv).to(tl.int64) * S * h + i
    if SHIFTED:  # noqa: SIM102 (a constant, and a value)
        if kv >= KH - SHIFTED:
            before = unturned_ptr + (row * SHIFTED + kv - (KH - SHIFTED)).to(tl.int64) * S * h + (position - 1) * h
            k, k_turn = previous(k, k_turn, before, position, split, i, h)
    dtype = keys_ptr.dtype.element_ty
    q = (q * cos + q_turn * sin).to(dtype)
    k = (k * cos + k_turn * sin).to(dtype)
    v = v.to(dtype)
    first = split == 0
    if first:
        tl.store((keys_ptr + cache + position * h)[None, :], k, mask=inside[None, :])
        tl.store((values_ptr + cache + position * h)[None, :], v, mask=inside[None, :])
    m = tl.where(first, tl.sum(q.to(tl.float32) * k.to(tl.float32), axis=1) * scale, float("-inf"))
    total = tl.where(first, 1.0, 0.0) + tl.zeros([BLOCK_G], tl.float32)
    acc = tl.where(first, v.to(tl.float32), 0.0) + tl.zeros([BLOCK_G, BLOCK_H], tl.float32)
    oldest = 0
    if WINDOW:
        oldest = tl.maximum(position - window + 1, 0)
    share = tl.cdiv(tl.cdiv(position - oldest, BLOCK_S), SPLITS) * BLOCK_S
    low = oldest + split * share
    high = tl.minimum(low + share, position)
    m, total, acc = over(keys_ptr, values_ptr, cache, low, high, m, total, acc, q, inside, scale, h, BLOCK_S)
    head = row * H + heads
    keep = (g < G)[:, None] & inside[None, :]
    if SPLITS == 1:
        tl.store(out_ptr + head[:, None] * h + i[None, :], (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=keep)
    else:
        part = head * SPLITS + split
        tl.store(parts_ptr + part[:, None] * h + i[None, :], acc, mask=keep)
        tl.store(sums_ptr + part * 2, m, mask=g < G)
        tl.store(sums_ptr + part * 2 + 1, total, mask=g < G)


@triton.jit
def merge(
    parts_ptr, sums_ptr, out_ptr,
    h: tl.constexpr, SPLITS: tl.constexpr, BLOCK_H: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Parts of each head [B·H, SPLITS, h], and their largest scores and sums → out [B·H, h]."""
    begin(EARLY)
    head = tl.program_id(0)
    part, i = head * SPLITS + tl.arange(0, SPLITS), tl.arange(0, BLOCK_H)
    m = tl.load(sums_ptr + part * 2)
    weight = tl.exp(m - tl.max(m, axis=0))
    total = tl.sum(weight * tl.load(sums_ptr + part * 2 + 1), axis=0)
    acc = tl.load(parts_ptr + part[:, None] * h + i[None, :], mask=(i < h)[None, :], other=0.0)
    out = tl.sum(weight[:, None] * acc, axis=0) / total
    tl.store(out_ptr + head * h + i, out.to(out_ptr.dtype.element_ty), mask=i < h)


@triton.jit
def attend_media(
    q_ptr, keys_ptr, values_ptr, media_ptr, mask_ptr, norm_w, norm_b, eps, scale, out_ptr,
    most, latents, k_medium, k_latent, k_head, v_medium, v_latent, v_head,
    H: tl.constexpr, h: tl.constexpr, NORM: tl.constexpr, MASKED: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_R: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Queries [B, H, h] over the latents of the media [B, most] that `mask` [B, most] lets them see → out [B, H, h]; 0 where
    there are none. A program has a row and a head; strides are those of [M, R, H, h]."""
    begin(EARLY)
    row, head = tl.program_id(0) // H, tl.program_id(0) % H
    i = tl.arange(0, BLOCK_H)
    inside = i < h
    q = tl.load(q_ptr + (row * H + head) * h + i, mask=inside, other=0.0).to(tl.float32)
    if NORM != "none":
        if NORM == "layer":
            q = tl.where(inside, q - tl.sum(q, axis=0) / h, 0.0)
        q = q * tl.rsqrt(tl.sum(q * q, axis=0) / h + eps) * tl.load(norm_w + i, mask=inside, other=0.0).to(tl.float32)
        if NORM == "layer":
            q = q + tl.load(norm_b + i, mask=inside, other=0.0).to(tl.float32)
    largest = tl.full([1], -1e30, tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([BLOCK_H], tl.float32)
    for slot in range(0, most):
        medium = tl.load(media_ptr + row * most + slot)
        count = latents
        if MASKED:
            count = tl.where(tl.load(mask_ptr + row * most + slot) != 0, latents, 0)
        for start in range(0, count, BLOCK_R):
            r = start + tl.arange(0, BLOCK_R)
            ok = (r < count)[:, None] & inside[None, :]
            k = tl.load(keys_ptr + medium * k_medium + head * k_head + r[:, None] * k_latent + i[None, :], mask=ok, other=0.0)
            v = tl.load(values_ptr + medium * v_medium + head * v_head + r[:, None] * v_latent + i[None, :], mask=ok, other=0.0)
            scores = tl.where(r < count, tl.sum(k.to(tl.float32) * q[None, :], axis=1) * scale, float("-inf"))
            top = tl.maximum(largest, tl.max(scores, axis=0))
            p = tl.exp(scores - top)
            shrink = tl.exp(largest - top)
            acc = acc * shrink + tl.sum(p[:, None] * v.to(tl.float32), axis=0)
            total = total * shrink + tl.sum(p, axis=0)
            largest = top
    out = acc / tl.maximum(total, 1e-30)
    tl.store(out_ptr + (row * H + head) * h + i, out.to(out_ptr.dtype.element_ty), mask=inside)
