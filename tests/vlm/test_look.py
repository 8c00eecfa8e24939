"""Attention maps: shares of one picture, where the relevant patch is."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import Image, Sample, Text, attention_maps


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
