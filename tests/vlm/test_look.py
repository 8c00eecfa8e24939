"""Attention maps: shares of one picture, where the relevant patch is."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import Image, Sample, Text, attention_maps
from vlm.sight import Sight


@pytest.mark.parametrize("sees", ["last", "all"])
def test_each_map_sums_to_one_and_rows_without_image_are_zero(processor, sees):
    model = build(change(fusion={"sees": sees}))
    maps = attention_maps(model, processor(DOCUMENTS))
    assert maps.shape == (len(DOCUMENTS), 4, 4) and (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.tensor([0.0] + [1.0] * (len(DOCUMENTS) - 1)))


def test_batch_without_images_gives_zeros(processor, model):
    assert not attention_maps(model, processor(DOCUMENTS[:1])).any()


def test_a_row_does_not_depend_on_the_rows_beside_it(processor, model):
    together = attention_maps(model, processor(DOCUMENTS))
    for row, document in enumerate(DOCUMENTS):
        torch.testing.assert_close(together[row], attention_maps(model, processor([document]))[0], atol=1e-5, rtol=1e-4)


def spot(row, column):
    """White but for one dark patch."""
    pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
    pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0
    return Sample((Image(PIL.Image.fromarray(pixels)), Text("where?")))


def test_the_map_follows_the_patch_that_differs(processor):
    model = build(change(encoder={"depth": 1}, resampler={"depth": 1}))
    with torch.no_grad():  # an encoder of patches alone: no places, no mixing
        model.encoder.model.pos_embed.zero_()
        model.encoder.model.blocks[0].attn.proj.weight.zero_()
    places = [(0, 0), (1, 2), (3, 1), (2, 3)]
    maps = attention_maps(model, processor([spot(*p) for p in places]))
    away = (maps - maps.flatten(1).median(dim=1).values[:, None, None]).abs()
    assert [divmod(int(a.argmax()), 4) for a in away] == places
    values = [float(m[p]) for m, p in zip(maps, places, strict=True)]
    assert values == pytest.approx([values[0]] * 4, rel=1e-3)


@pytest.mark.parametrize("prefix", [True, False])
def test_without_resampler_the_map_is_the_gated_layers_own_attention(processor, prefix):
    config = dataclasses.replace(change(encoder={"prefix_tokens": prefix}, fusion={"every": 9}), resampler=None)
    model = build(config)
    batch = processor([DOCUMENTS[1]])
    block = model.fusion["0"]
    with torch.no_grad():
        x = model.decoder.embedding(batch.tokens[:, -1:])
        keys = block.project_media(model.latents(batch))
        sight = Sight.of(batch).after(batch.lengths - 1)
        looks = block.attention(x, keys, sight)[0, 0, 0]
    assert len(looks) == 16 + prefix
    patches = looks[prefix:]
    torch.testing.assert_close(attention_maps(model, batch)[0].flatten(), patches / patches.sum())


def test_class_tokens_are_no_place(processor):
    """The patches' share is taken after the prefix tokens, through a resampler too."""
    model = build(change(encoder={"prefix_tokens": True, "depth": 1}, resampler={"depth": 1}))
    with torch.no_grad():
        model.encoder.model.pos_embed.zero_()
        model.encoder.model.blocks[0].attn.proj.weight.zero_()
    maps = attention_maps(model, processor([spot(1, 2)]))[0]
    assert divmod(int((maps - maps.median()).abs().argmax()), 4) == (1, 2)


def test_prefix_tokens_are_no_patches(processor):
    """Attention to the class token is left out, and the patches' keep their places."""
    plain, whole = build(), build(change(encoder={"prefix_tokens": True}))
    whole.load_state_dict(plain.state_dict())
    batch = processor(DOCUMENTS[1:2])
    seen, without = attention_maps(whole, batch), attention_maps(plain, batch)
    assert seen.shape == without.shape and seen.sum().item() == pytest.approx(1)
    torch.testing.assert_close(seen, without, atol=0.02, rtol=0.5)
    assert int(seen.argmax()) == int(without.argmax())


def test_looking_changes_nothing(processor, model):
    batch = processor(DOCUMENTS)
    with torch.no_grad():
        before = model(batch).logits
        attention_maps(model, batch)
        assert torch.equal(model(batch).logits, before)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_only_the_last_medium_is_mapped(processor):
    model = build(change(fusion={"every": 9}))  # only the block before the first layer
    batch = processor([Sample((*DOCUMENTS[3].segments[:2], Text("x")))])
    base = attention_maps(model, batch)
    for medium, moves in [(0, False), (1, True)]:
        images = batch.images.clone()
        images[medium] = 255 - images[medium]
        maps = attention_maps(model, dataclasses.replace(batch, images=images))
        assert (maps - base).abs().max().item() > 1e-4 if moves else torch.equal(maps, base)
