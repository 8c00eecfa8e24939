"""Gated cross-attention and the resampler's layers against plain einsum, and what a token looks at."""

import dataclasses
import math

import pytest
import torch
from vlm_fakes import CONFIG, build, change, randomize

from vlm.config import FusionConfig, ResamplerConfig
from vlm.fusion import GatedCrossAttention, Sight
from vlm.resampler import PerceiverResampler, ResamplerLayer


def norm(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def ffn(sequence, x):
    first, up, _, down = sequence
    hidden = norm(first, x) @ up.weight.T
    return 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))) @ down.weight.T


def plain_block(block, x, latents, visible):
    """One token, its own visible latents, one head at a time. `visible[b][t]` lists media."""
    c = block.config
    heads, size = c.num_heads, c.head_dim
    keys, values = block.key_value.weight.view(2, heads, size, -1)
    queries, out = block.query.weight.view(heads, size, -1), block.out.weight.view(-1, heads, size)
    result = x.clone()
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            if not visible[b][t]:
                continue
            seen = torch.cat([latents[m] for m in visible[b][t]])
            q = torch.einsum("hsd,d->hs", queries, norm(block.attention_norm, x[b, t]))
            k, v = (torch.einsum("hsd,rd->hrs", w, seen) for w in (keys, values))
            weight = torch.softmax(torch.einsum("hs,hrs->hr", q, k) / math.sqrt(size), dim=-1)
            y = x[b, t] + block.attention_gate.tanh() * torch.einsum("hr,hrs,ohs->o", weight, v, out)
            result[b, t] = y + block.ffn_gate.tanh() * ffn(block.ffn, y)
    return result


def media_of(batch, mode):
    """The definition, token by token."""
    rows = []
    for b in range(batch.tokens.shape[0]):
        row = []
        for t in range(batch.tokens.shape[1]):
            last, document = int(batch.image_index[b, t]), int(batch.document[b, t])
            before = [m for m in range(last + 1) if batch.media_document[m].tolist() == [b, document]] if last >= 0 else []
            row.append(before[-1:] if mode == "last" else before)
        rows.append(row)
    return rows


@pytest.fixture
def block():
    block = GatedCrossAttention(FusionConfig(num_heads=3, head_dim=8, ffn_dim=20, gate_init=0.5), dim=32, latent_dim=24)
    randomize(block)
    return block


@pytest.mark.parametrize("mode", ["last", "all"])
def test_block_equals_plain_einsum(mixed, block, mode):
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    visible = media_of(mixed, mode)
    with torch.no_grad():
        block.ffn_gate.fill_(-0.8)
        y = block(x, block.project_media(latents), Sight.of(mixed, mode))
        torch.testing.assert_close(y, plain_block(block, x, latents, visible), atol=1e-5, rtol=1e-4)
    blind = torch.tensor([[not v for v in row] for row in visible])
    assert torch.equal(y[blind], x[blind])  # untouched, bit for bit
    assert blind.any() and (~blind).any()


@pytest.mark.parametrize("mode", ["last", "all"])
def test_sight_is_the_definition(mixed, mode):
    sight = Sight.of(mixed, mode)
    for b, row in enumerate(media_of(mixed, mode)):
        for t, media in enumerate(row):
            assert sight.media[b][sight.mask[b, t]].tolist() == media
            assert bool(sight.sees[b, t]) == bool(media)


@pytest.mark.parametrize("mode", ["last", "all"])
def test_attention_is_of_visible_media_only_and_sums_to_one(mixed, block, mode):
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    sight = Sight.of(mixed, mode)
    weight = block.attention(x, block.project_media(latents), sight)
    torch.testing.assert_close(weight.sum(dim=(2, 3)), torch.ones(mixed.tokens.shape))
    assert not weight[sight.sees][~sight.mask[sight.sees]].any()


def test_a_closed_gate_lets_its_sublayer_out_alone(mixed, block):
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    sight = Sight.of(mixed)
    with torch.no_grad():
        block.attention_gate.zero_()
        a, b = (block(x, block.project_media(m), sight) for m in (latents, 2 * latents))
        assert torch.equal(a, b) and not torch.equal(a, x)
        block.ffn_gate.zero_()
        assert torch.equal(block(x, block.project_media(latents), sight), x)


# -- resampler ----------------------------------------------------------------------------------------------------------


def plain_layer(layer, latents, patches):
    """One medium, its real patches only."""
    heads, dim = layer.num_heads, latents.shape[-1]
    keys, values = layer.key_value.weight.view(2, heads, dim // heads, dim)
    queries, out = layer.query.weight.view(heads, -1, dim), layer.out.weight.view(dim, heads, -1)
    normed = norm(layer.latent_norm, latents)
    seen = torch.cat((norm(layer.patch_norm, patches), normed))
    q = torch.einsum("hsd,rd->hrs", queries, normed)
    k, v = (torch.einsum("hsd,pd->hps", w, seen) for w in (keys, values))
    weight = torch.softmax(torch.einsum("hrs,hps->hrp", q, k) / math.sqrt(dim // heads), dim=-1)
    latents = latents + torch.einsum("hrp,hps,ohs->ro", weight, v, out)
    return latents + ffn(layer.ffn, latents), weight.mean(dim=0)[:, : len(patches)]


def test_resampler_layer_equals_plain_einsum():
    layer = ResamplerLayer(ResamplerConfig(dim=24, num_heads=3, ffn_dim=40))
    randomize(layer)
    latents, patches = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    with torch.no_grad():
        y, weight = layer(latents, patches, mask), layer.attention(latents, patches, mask)
        for m, real in enumerate((7, 4)):
            expected, looks = plain_layer(layer, latents[m], patches[m, :real])
            torch.testing.assert_close(y[m], expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(weight[m, :, :real], looks, atol=1e-6, rtol=1e-4)
            assert not weight[m, :, real:].any()


def test_resampler_makes_a_fixed_number_of_latents_of_any_number_of_frames():
    resampler = PerceiverResampler(CONFIG.resampler, encoder_dim=16)
    frames = torch.tensor([0, 1, 1, 1, 2])
    latents = resampler(torch.randn(5, 9, 16), frames, torch.zeros(5), 3)
    assert latents.shape == (3, CONFIG.resampler.num_latents, CONFIG.resampler.dim)


def test_time_is_interpolated_and_held_after_the_last_second():
    resampler = PerceiverResampler(CONFIG.resampler, encoder_dim=16)
    with torch.no_grad():
        resampler.time.normal_()
        at = resampler._time_embedding(torch.tensor([0.0, 0.25, 3.0, 100.0, -1.0]))
    table = resampler.time.detach()
    expected = torch.stack([table[0], 0.75 * table[0] + 0.25 * table[1], table[3], table[3], table[0]])
    torch.testing.assert_close(at, expected)


def test_grid_start_looks_at_its_own_place_first():
    model = build(change(encoder={"width": 32, "image_size": 32}, resampler={"dim": 32, "num_latents": 16, "depth": 1}))
    fresh = PerceiverResampler(dataclasses.replace(model.config.resampler, start="grid"), encoder_dim=32)
    from encoders.positions import sincos_grid

    patches = sincos_grid(8, 32)[None]  # places and nothing else: an 8 x 8 grid of patches under a 4 x 4 grid of latents
    latents, patches, mask = fresh.inputs(patches, torch.tensor([0]), torch.zeros(1), 1)
    with torch.no_grad():
        looks = fresh.layers[0].attention(latents, patches, mask)[0].view(4, 4, 8, 8)
    for row in range(4):
        for column in range(4):
            own = looks[row, column, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert own.mean() > 3 * looks[row, column].mean()
            peak = int(looks[row, column].argmax())
            assert (peak // 16, peak % 8 // 2) == (row, column)


def test_random_start_does_not_know_places():
    resampler = PerceiverResampler(ResamplerConfig(dim=32, num_latents=16, depth=1, num_heads=2, ffn_dim=8), encoder_dim=32)
    from encoders.positions import sincos_grid

    latents, patches, mask = resampler.inputs(sincos_grid(8, 32)[None], torch.tensor([0]), torch.zeros(1), 1)
    looks = resampler.layers[0].attention(latents, patches, mask)[0].view(4, 4, 8, 8)
    own = torch.stack([looks[r, c, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for r in range(4) for c in range(4)])
    assert own.mean() < 2 * looks.mean()
