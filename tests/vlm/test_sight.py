"""Attention of each token to its own medium: both ways to go by stretches, their cost, and one compilation for all batches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental import _config
from torch.nn.attention import varlen  # noqa: F401 - whose operators get a kernel here
from torch.utils.flop_counter import FlopCounterMode

from vlm import Batch, FusionConfig, ResamplerConfig
from vlm.fusion import GatedCrossAttention
from vlm.resampler import PerceiverResampler
from vlm.sight import Blocks, Rows, Runs, Sight, varying

H, SIZE, R = 2, 8, 5


@torch.library.register_kernel("torch_attn::_varlen_attn", "cpu")
def runs_on_the_cpu(q, k, v, starts, ends, longest, latents, *_):
    """The kernel for runs of any length exists for GPUs alone: here is its definition, a product for each run."""
    lengths = starts.diff().tolist()
    assert max(lengths) <= longest and int(starts[-1]) == len(q) and set(ends.diff().tolist()) == {latents}
    parts = zip(q.split(lengths), k.split(latents), v.split(latents), strict=True)
    y = [F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in part)).transpose(0, 1) for part in parts]
    return torch.cat(y), q.new_zeros(q.shape[:2]).float().T, torch.zeros(2, dtype=torch.uint64)


@torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu")
def gradient_of_runs_on_the_cpu(grad, q, k, v, out, lse, starts, ends, longest, latents, *_):
    lengths, scale, grads = starts.diff().tolist(), q.shape[-1] ** -0.5, []
    for g, *run in zip(grad.split(lengths), q.split(lengths), k.split(latents), v.split(latents), strict=True):
        g, qs, ks, vs = (t.transpose(0, 1) for t in (g, *run))
        weight = (qs @ ks.mT * scale).softmax(dim=-1)
        of_weight = g @ vs.mT
        of_scores = weight * (of_weight - (of_weight * weight).sum(dim=-1, keepdim=True)) * scale
        grads.append([t.transpose(0, 1) for t in (of_scores @ ks, of_scores.mT @ qs, weight.mT @ g)])
    return tuple(torch.cat(parts) for parts in zip(*grads, strict=True))


def token_by_token(batch: Batch, q, k, v):
    """The definition; zeros for a token that sees nothing."""
    out = torch.zeros_like(q)
    for b, row in enumerate(batch.image_index.tolist()):
        for t, m in enumerate(row):
            if m >= 0:
                weight = (torch.einsum("hs,rhs->hr", q[b, t], k[m]) / SIZE**0.5).softmax(dim=-1)
                out[b, t] = torch.einsum("hr,rhs->hs", weight, v[m])
    return out


def ragged(seed: int, rows: int, length: int, most: int) -> Batch:
    """Rows of up to `most` media at random places, some with none."""
    draw = torch.Generator().manual_seed(seed)
    index, place = torch.full((rows, length), -1), []
    for b in range(rows):
        count = int(torch.randint(0, most + 1, (), generator=draw))
        for start in torch.randperm(length, generator=draw)[:count].sort().values.tolist():
            index[b, start:] = len(place)
            place.append((b, 0))
    media = torch.arange(len(place))
    zeros = torch.zeros_like(index)
    images = torch.zeros(len(place), 3, 1, 1, dtype=torch.uint8)
    place = torch.tensor(place, dtype=torch.int64).reshape(-1, 2)
    return Batch(zeros, zeros, zeros, zeros, index, place, images, media, media.float())


@pytest.mark.parametrize("kind", [Blocks, Runs])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 4), (2, 300, 3), (5, 130, 9), (4, 64, 64)])
def test_each_token_reads_its_own_medium(kind, shape):
    batch = next(b for seed in range(9) if (b := ragged(seed, *shape)).num_media)
    torch.manual_seed(0)
    q = torch.randn(*batch.tokens.shape, H, SIZE, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(batch.num_media, R, H, SIZE, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sees = batch.image_index >= 0
    y = torch.where(sees[:, :, None, None], kind.of(batch).attend(q, k, v), 0)
    expected = token_by_token(batch, q, k, v)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-10)
    out = torch.randn_like(y)
    for ours, theirs in zip(*(torch.autograd.grad(z, (q, k, v), out) for z in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_blocks_take_media_in_any_order(mixed):
    turned = torch.where(mixed.image_index >= 0, mixed.num_media - 1 - mixed.image_index, -1)
    batch = dataclasses.replace(mixed, image_index=turned)
    q, k, v = torch.randn(*batch.tokens.shape, H, SIZE), *torch.randn(2, batch.num_media, R, H, SIZE)
    y = torch.where((turned >= 0)[:, :, None, None], Blocks.of(batch).attend(q, k, v), 0)
    torch.testing.assert_close(y, token_by_token(batch, q, k, v))
    assert not batch.extent.in_order


def test_cost_does_not_grow_with_the_images_of_a_row():
    """1 to 64 images in a row of 2,048 tokens; the images' own keys and values left out."""
    block = GatedCrossAttention(FusionConfig(num_heads=2, head_dim=16, ffn_dim=64), 32, 24)
    x, costs = torch.randn(1, 2048, 32, requires_grad=True), []
    for count in (1, 4, 16, 64):
        index = (torch.arange(2048) * count // 2048)[None]
        batch = dataclasses.replace(ragged(0, 1, 2048, 1), image_index=index, media_document=torch.zeros(count, 2).long())
        k, v = block.project_media(torch.randn(count, 16, 24))
        sight = Sight(index >= 0, index, Blocks.of(batch))
        with FlopCounterMode(display=False) as counter:
            block(x, (k.detach(), v.detach()), sight).sum().backward()
        costs.append(counter.get_total_flops())
    assert max(costs) < 1.4 * min(costs)  # blocks that are not full; a mask over all images would take 13 times as much


@pytest.mark.parametrize("kind", [Blocks, Runs, Rows])
@_config.patch(backed_size_oblivious=True)
def test_one_compilation_serves_ragged_batches(kind):
    """Whole, for any number of media and of blocks, with one medium too: sizes of 1 would else be compiled apart."""
    torch._dynamo.reset()
    block = GatedCrossAttention(FusionConfig(num_heads=H, head_dim=SIZE, ffn_dim=16, gate_init=0.5), 16, 12)
    shape = {"dim": 12, "num_latents": R, "num_heads": 2, "ffn_dim": 8, "depth": 2}
    resampler = PerceiverResampler(ResamplerConfig(**shape), 10)

    def loss(batch: Batch) -> torch.Tensor:
        torch.manual_seed(0)
        x, patches = torch.randn(*batch.tokens.shape, 16), torch.randn(batch.num_media, 7, 10)
        latents = resampler(patches, batch.media_of_frame, batch.frame_time, batch.num_media, batch.extent.frames)
        k, v = block.project_media(latents)
        sight = Sight(batch.image_index >= 0, batch.image_index.clamp(min=0), kind.of(batch))
        return block(x, (varying(k), varying(v)), sight).square().mean()

    one = next(batch for seed in range(99) if (batch := ragged(seed, 3, 30, 1)).num_media == 1)
    batches = [*(ragged(seed, 3, 30, most) for seed, most in ((0, 4), (1, 9), (2, 2), (3, 30))), one]
    expected = [loss(batch).detach() for batch in batches]
    for module in (block, *resampler.layers):
        module.compile(fullgraph=True, backend="aot_eager")
    for number, batch in enumerate(batches):
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            found = loss(batch)
            found.backward()
        torch.testing.assert_close(found.detach(), expected[number])
