"""The network written out as its papers have it, on the weights of a `VLM`: what the fast path is compared with.

Nothing is spared: each token's scores with each other token and with each latent of the whole batch, masked; a loop over the
experts, each over the tokens that chose it; the logits of all positions. For single pictures, the last of which a token sees,
softmax routers, and the options of the default configuration.

B rows, T tokens, M pictures, R latents, H heads, h head size, N tokens of the batch, E experts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm import VLM, Batch
from vlm.batch import IGNORE
from vlm.decoder import DecoderLayer
from vlm.fusion import GatedCrossAttention


def loss(model: VLM, batch: Batch) -> Tensor:
    """As `model(batch).loss`."""
    x, routers = states(model, batch)
    logits = F.linear(x, model.decoder.head_weight).float()
    total = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
    if routers:
        config, parts = model.config.decoder, list(zip(*routers, strict=True))
        balance, z = (torch.stack(part).mean() for part in parts)
        total = total + config.balance_loss * balance + config.router_z_loss * z
    return total


def states(model: VLM, batch: Batch) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """[B, T, D] before the head, and of each router its balance and z losses."""
    media = latents(model, batch) if batch.num_media else None
    mask = _document_mask(batch)
    x, routers = model.decoder.embedding(batch.tokens), []
    for index, layer in enumerate(model.decoder.layers):
        if media is not None and str(index) in model.fusion:
            x = gated(model.fusion[str(index)], x, media, batch)
        x = x + attention(layer, layer.attention_norm(x), mask, batch.positions, model.config.decoder.rope_theta)
        y, router = experts(layer, layer.moe_norm(x), (batch.document >= 0).flatten())
        x, routers = x + y, routers + ([router] if router else [])
    return model.decoder.norm(x), routers


def latents(model: VLM, batch: Batch) -> Tensor:
    """[M, R, D]"""
    resampler = model.resampler
    x = resampler.project(model.encoder(batch.images)) + resampler.time[0]
    out = resampler.latents.expand(len(x), -1, -1)
    for layer in resampler.layers:
        q = layer.latent_norm(out)
        k, v = layer.key_value(torch.cat((layer.patch_norm(x), q), dim=1)).chunk(2, dim=-1)
        heads = [_heads(t, layer.num_heads) for t in (layer.query(q), k, v)]
        out = out + layer.out(_attend(*heads, None))
        out = out + layer.ffn(out)
    return resampler.norm(out)


def gated(block: GatedCrossAttention, x: Tensor, media: Tensor, batch: Batch) -> Tensor:
    """All tokens against the latents of all pictures."""
    heads, size = block.config.num_heads, media.shape[1]
    k, v = block.key_value(media).chunk(2, dim=-1)
    k, v = (_heads(t.flatten(0, 1).expand(len(x), -1, -1), heads) for t in (k, v))
    own = batch.image_index[:, :, None] == torch.arange(len(media), device=x.device)
    sees = batch.image_index >= 0
    mask = (own | ~sees[:, :, None]).repeat_interleave(size, dim=2)[:, None]  # who sees none is given all, and not used
    y = block.out(_attend(_heads(block.query(block.attention_norm(x)), heads), k, v, mask))
    after = x + block.attention_gate.tanh() * y
    after = after + block.ffn_gate.tanh() * block.ffn(after)
    return torch.where(sees[:, :, None], after, x)


def attention(layer: DecoderLayer, x: Tensor, mask: Tensor, positions: Tensor, theta: float) -> Tensor:
    part = layer.attention
    q, k, v = (
        _heads(part.query(x), part.num_heads),
        _heads(part.key(x), part.num_kv_heads),
        _heads(part.value(x), part.num_kv_heads),
    )
    if part.shifted:
        before = torch.cat((k[:, :, :1], k[:, :, :-1]), dim=2)
        before = torch.where((positions == 0)[:, None, :, None], k, before)
        k = torch.cat((k[:, : -part.shifted], before[:, -part.shifted :]), dim=1)
    q, k = _turn(q, positions, theta), _turn(k, positions, theta)
    k, v = (t.repeat_interleave(part.num_heads // part.num_kv_heads, dim=1) for t in (k, v))
    return part.out(_attend(q, k, v, mask))


def experts(layer: DecoderLayer, x: Tensor, real: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Each expert on the tokens that chose it; the router's losses over the tokens that are `real` [N]."""
    moe, flat = layer.moe, x.flatten(0, 1)
    if moe.router is None:
        return _feed_forward(layer, flat, 0).view_as(x), None
    logits = flat.float() @ moe.router.weight.float().T
    scores = logits.softmax(dim=-1)
    weights, chosen = scores.topk(moe.router.top_k, dim=-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    out = torch.zeros_like(flat, dtype=torch.float32)
    for expert in range(scores.shape[1]):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        part = _feed_forward(layer, flat[token], expert).float() * weights[token, place, None]
        out = out.index_add(0, token, part)
    share = F.one_hot(chosen[real], scores.shape[1]).sum(dim=(0, 1)) / chosen[real].numel()
    balance = (share * scores[real].mean(dim=0)).sum() * scores.shape[1]
    return out.to(x.dtype).view_as(x), (balance, logits[real].logsumexp(dim=-1).square().mean())


def _feed_forward(layer: DecoderLayer, x: Tensor, expert: int) -> Tensor:
    part = layer.moe.experts
    gate, up = (x @ part.gate_up[expert]).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ part.down[expert]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[B, H, T, h] each → [B, T, H·h]"""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return (scores.float().softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _heads(x: Tensor, count: int) -> Tensor:
    """[B, T, H·h] → [B, H, T, h]"""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _turn(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary positions: pair i is (i, i + h/2)."""
    half = x.shape[-1] // 2
    angle = positions[:, None, :, None] / theta ** (torch.arange(half, device=x.device) / half)
    left, right = x[..., :half].float(), x[..., half:].float()
    turned = (left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin())
    return torch.cat(turned, dim=-1).to(x.dtype)


def _document_mask(batch: Batch) -> Tensor:
    """bool [B, 1, T, T]"""
    same = batch.document[:, :, None] == batch.document[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]
