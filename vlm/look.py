"""Where a model looks: the gated layers' attention to latents, composed with the resampler's attention to patches.

A picture of the computation, not a proof of its cause: gates, values and feed-forwards are left out. So is what goes to class
and register tokens, which have no place. Without a resampler the gated layers look at the patches themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vlm.batch import Batch
from vlm.fusion import GatedCrossAttention
from vlm.model import VLM
from vlm.resampler import ResamplerLayer


@torch.no_grad()
def attention_maps(model: VLM, batch: Batch) -> Tensor:
    """[B, g, g], each map summing to 1: where the last real token of each row looks in its last medium's first frame.

    Rows that see no image give zeros.
    """
    grid = model.encoder.grid
    maps = torch.zeros(batch.tokens.shape[0], grid, grid, device=batch.tokens.device)
    if not batch.num_media:
        return maps
    with _inputs(model, GatedCrossAttention) as blocks, _inputs(model, ResamplerLayer) as layers:
        model.hidden(batch)
    to_patches = _to_patches(model, batch, [layer.attention(*args) for layer, args in layers])
    rows = torch.arange(len(maps), device=maps.device)
    last = (batch.lengths - 1).clamp(min=0)
    medium = batch.image_index[rows, last]
    for block, (x, media, sight) in blocks:
        own = sight.after(last)
        here = own.by.media == medium[:, None]
        weight = block.attention(x[rows, last][:, None], media, own)[:, 0]  # [B, G, R]
        latent = (weight * here[:, :, None]).sum(dim=1)
        maps += torch.einsum("br,brp->bp", latent, to_patches[medium.clamp(min=0)]).unflatten(1, (grid, grid))
    maps *= (medium >= 0)[:, None, None]
    return maps / maps.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def _to_patches(model: VLM, batch: Batch, layers: list[Tensor]) -> Tensor:
    """How much each latent takes from each patch of its medium's first frame, mean over the resampler's layers: [M, R, P]."""
    first = model.encoder.num_prefix_tokens
    last = first + model.encoder.grid**2
    own = layers or [torch.eye(last, device=batch.images.device).expand(batch.num_media, -1, -1)]
    return torch.stack(own).mean(dim=0)[:, :, first:last]


@contextlib.contextmanager
def _inputs(model: nn.Module, kind: type[nn.Module]) -> Iterator[list[tuple[nn.Module, tuple]]]:
    """Collect what each module of a kind is called with, in order, inside the `with`."""
    calls: list[tuple[nn.Module, tuple]] = []
    hooks = [
        m.register_forward_pre_hook(lambda module, args: calls.append((module, args)))
        for m in model.modules()
        if isinstance(m, kind)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
