"""Batches without data: random tokens, all learnt, and random pictures, evenly spaced from the first token of a row on."""

from __future__ import annotations

import torch

from vlm import Batch


def text_batch(vocab: int, rows: int, length: int, device: str, seed: int = 0) -> Batch:
    """One document a row."""
    return image_batch(vocab, rows, length, 0, 1, device, seed)


def image_batch(vocab: int, rows: int, length: int, images: int, size: int, device: str, seed: int = 0) -> Batch:
    """`images` a row, of `size` pixels."""
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab, (rows, length + 1), generator=chance)
    place = torch.arange(length).expand(rows, -1)
    row = torch.arange(rows)
    index = row[:, None] * images + place * images // length if images else torch.full_like(place, -1)
    owner = row.repeat_interleave(images)
    batch = Batch(
        tokens=tokens[:, :-1].contiguous(),
        labels=tokens[:, 1:].contiguous(),
        positions=place.contiguous(),
        document=torch.zeros_like(place).contiguous(),
        image_index=index,
        media_document=torch.stack((owner, torch.zeros_like(owner)), dim=1),
        images=torch.randint(256, (rows * images, 3, size, size), generator=chance, dtype=torch.uint8),
        media_of_frame=torch.arange(rows * images),
        frame_time=torch.zeros(rows * images),
    )
    return batch.to(device)
