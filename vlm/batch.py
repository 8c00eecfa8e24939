"""The one thing the network reads: a batch of token rows and, flat beside it, the images they refer to.

B rows, T tokens a row, M media (an image or a clip), N frames over all media. Several documents may share a row (packing);
nothing in the network lets one see another. There is no padded image axis and no image count a row.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100  # label of a position that is not learnt


@dataclass(frozen=True)
class Batch:
    """Integer tensors are int64, except `images`, which is uint8 in 0…255."""

    tokens: Tensor  # [B, T] input ids
    labels: Tensor  # [B, T] id to be predicted *at* each position (already shifted), IGNORE = not learnt
    positions: Tensor  # [B, T] restart with each document
    document: Tensor  # [B, T] which packed sample in the row, -1 = padding
    image_index: Tensor  # [B, T] last medium up to the token in its document, as an index into the media; -1 = none
    media_document: Tensor  # [M, 2] row and document of each medium; those of a row stand in the order of its text
    images: Tensor  # [N, 3, H, W] frames of all media
    media_of_frame: Tensor  # [N] medium of each frame, ascending
    frame_time: Tensor  # [N] float32, seconds within the clip; 0 for an image

    @property
    def num_media(self) -> int:
        return self.media_document.shape[0]

    @property
    def lengths(self) -> Tensor:
        """[B] tokens in each row before its padding."""
        return (self.document >= 0).sum(dim=1)

    def to(self, *args, **kwargs) -> Batch:
        """As `Tensor.to` on every tensor; a dtype is refused, since ids must stay integers."""
        if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
            raise ValueError("Batch.to moves between devices only: ids and pixels keep their integer types")
        return self._map(lambda t: t.to(*args, **kwargs))

    def without_images(self) -> Batch:
        """The same text with nothing to see: every gated layer is passed untouched, as if all gates were zero (with
        `pass_without_image: false` their feed-forwards still act)."""
        return dataclasses.replace(
            self,
            image_index=torch.full_like(self.image_index, -1),
            media_document=self.media_document[:0],
            images=self.images[:0],
            media_of_frame=self.media_of_frame[:0],
            frame_time=self.frame_time[:0],
        )

    def with_blank_images(self, level: int = 255) -> Batch:
        """The same batch with every picture replaced by a uniform one: what the text alone gives away."""
        return dataclasses.replace(self, images=torch.full_like(self.images, level))

    def _map(self, function) -> Batch:
        return Batch(**{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)})
