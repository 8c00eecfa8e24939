"""The resampler's layers against plain einsum, its times and its start."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from vlm_fakes import CONFIG, build, change, randomize

from encoders.positions import sincos_grid
from vlm.activation import ACTIVATIONS
from vlm.config import ResamplerConfig
from vlm.resampler import PerceiverResampler, ResamplerLayer


def norm(layer, x):
    if isinstance(layer, nn.Identity):
        return x
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def plain_layer(layer, activation, latents, patches):
    """One medium, its real patches only."""
    heads, dim = layer.num_heads, latents.shape[-1]
    keys, values = layer.key_value.weight.view(2, heads, -1, dim)
    queries, out = layer.query.weight.view(heads, -1, dim), layer.out.weight.view(dim, heads, -1)
    normed = norm(layer.latent_norm, latents)
    seen = torch.cat((norm(layer.patch_norm, patches), normed))
    q = norm(layer.query_norm, torch.einsum("hsd,rd->hrs", queries, normed))
    k, v = (torch.einsum("hsd,pd->hps", w, seen) for w in (keys, values))
    k = norm(layer.key_norm, k)
    weight = torch.softmax(torch.einsum("hrs,hps->hrp", q, k) / math.sqrt(q.shape[-1]), dim=-1)
    latents = latents + torch.einsum("hrp,hps,ohs->ro", weight, v, out)
    first, up, _, down = layer.ffn
    y = ACTIVATIONS[activation](norm(first, latents) @ up.weight.T) @ down.weight.T
    return latents + y, weight.mean(dim=0)[:, : len(patches)]


@pytest.mark.parametrize(
    "options", [{}, {"head_dim": 10, "activation": "relu"}, {"query_key_norm": True, "norm_eps": 1e-2, "head_dim": 4}]
)
def test_resampler_layer_equals_plain_einsum(options):
    config = ResamplerConfig(dim=24, num_heads=3, ffn_dim=40, **options)
    layer = ResamplerLayer(config)
    randomize(layer)
    latents, patches = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    with torch.no_grad():
        y, weight = layer(latents, patches, mask), layer.attention(latents, patches, mask)
        for m, real in enumerate((7, 4)):
            expected, looks = plain_layer(layer, config.activation, latents[m], patches[m, :real])
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
    latents, patches, mask = resampler.inputs(sincos_grid(8, 32)[None], torch.tensor([0]), torch.zeros(1), 1)
    looks = resampler.layers[0].attention(latents, patches, mask)[0].view(4, 4, 8, 8)
    own = torch.stack([looks[r, c, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for r in range(4) for c in range(4)])
    assert own.mean() < 2 * looks.mean()
