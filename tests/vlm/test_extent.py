"""What a batch knows of itself on the host: counted right, kept by what changes none of it, and never counted on a device."""

import dataclasses
import pickle
from collections import Counter

import pytest
import torch
from vlm_fakes import DOCUMENTS, image

from vlm import Batch, Sample, Text
from vlm.batch import Extent


def counted(batch: Batch) -> Extent:
    """By its definition, item by item."""
    frames = [batch.media_of_frame.tolist().count(m) for m in range(batch.num_media)]
    rows = batch.media_document[:, 0].tolist()
    seen = [index for row in batch.image_index.tolist() for index in row]
    runs = Counter(max([0, *seen[: i + 1]]) for i in range(len(seen)))
    seen = [index for index in seen if index >= 0]
    return Extent(
        frames=max(frames, default=1),
        media=max((rows.count(b) for b in range(len(batch.tokens))), default=0),
        learnt=sum(label != -100 for row in batch.labels.tolist() for label in row),
        seeing=len(seen),
        longest=max(runs.values()),
        in_order=seen == sorted(seen),
        packed=any(d >= 0 and set(row[:t]) - {d} for row in batch.document.tolist() for t, d in enumerate(row)),
    )


@pytest.mark.parametrize("rows", [[[0]], [[1], [0]], [[0, 0], [1]], [[5, 3], [4], [2, 6, 1]], [[3], [4], [5]]])
def test_extent_is_what_one_counts(processor, rows):
    docs = [processor.encode(s) for s in DOCUMENTS]
    for length in (None, 120):
        batch = processor.collate([[docs[i] for i in row] for row in rows], length)
        assert batch.extent == counted(batch)
        for other in (batch.without_images(), batch.with_blank_images(), batch.with_unseen_image(16)):
            assert other.extent == counted(other)


def test_padding_behind_a_document_is_not_packed_and_padding_before_it_is(processor):
    batch = processor(DOCUMENTS[:3])
    assert (batch.document < 0).any() and not batch.extent.packed
    turned = dataclasses.replace(batch, document=batch.document.flip(1))
    assert turned.extent.packed


def test_padding_inside_a_document_is_not_overlooked(processor):
    batch = processor(DOCUMENTS[:1])
    hole = batch.document.clone()
    hole[:, 2:4] = -1
    assert not batch.extent.packed and dataclasses.replace(batch, document=hole).extent.packed


def test_media_out_of_order_are_found_out(mixed):
    assert mixed.extent.in_order
    turned = torch.where(mixed.image_index >= 0, mixed.num_media - 1 - mixed.image_index, -1)
    other = dataclasses.replace(mixed, image_index=turned)
    assert other.extent == counted(other) and not other.extent.in_order


def test_a_changed_batch_is_counted_anew(mixed):
    assert mixed.extent.learnt > 0
    changed = dataclasses.replace(mixed, labels=torch.full_like(mixed.labels, -100))
    assert changed.extent == dataclasses.replace(mixed.extent, learnt=0)


def test_another_device_and_another_process_are_told(mixed):
    assert mixed.to("meta").extent == mixed.extent  # a meta tensor has no numbers to count
    assert "extent" in pickle.loads(pickle.dumps(mixed.to("cpu"))).__dict__


def test_a_picture_that_nobody_sees_changes_nothing(processor, model):
    text = processor([DOCUMENTS[0], Sample((Text("more"),))])
    with torch.no_grad():
        assert torch.equal(model(text.with_unseen_image(16)).logits, model(text).logits)
        seen = processor([Sample((image(1), Text("x")))])
        assert torch.equal(model(seen.with_unseen_image(16)).logits, model(seen.without_images()).logits)
