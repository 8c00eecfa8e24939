"""The one thing the network reads: a batch of token rows and, flat beside it, the images they refer to.

B rows, T tokens a row, M media (an image or a clip), N frames over all media. Several documents may share a row (packing);
nothing in the network lets one see another. There is no padded image axis and no image count a row.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that is not learnt


@dataclass(frozen=True)
class Extent:
    """What the network must know of a batch as plain numbers: reading them from a GPU would make the host wait for it."""

    frames: int  # most of one medium; 1 without media
    media: int  # most in a row
    learnt: int  # tokens with a label
    seeing: int  # tokens with a medium to look at
    longest: int  # tokens from a medium's first to the next one's, all rows in a line; before the first medium is the first's
    in_order: bool  # are media numbered in the order of the text
    packed: bool  # does a token stand behind what is not its document's: another document, or padding


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

    @cached_property
    def extent(self) -> Extent:
        """Counted where the tensors are, once; `to` takes it along, so a batch made on the host never asks its GPU."""
        real = self.document >= 0
        behind_other = (self.document != self.document[:, :1]) & real
        behind_padding = real[:, 1:] & ~real[:, :-1]
        index = self.image_index.flatten()
        last = index.cummax(dim=0).values
        frames, media, learnt, seeing, longest, turned, packed = torch.stack(
            [
                _most_alike(self.media_of_frame, self.num_media),
                _most_alike(self.media_document[:, 0], len(self.tokens)),
                (self.labels != IGNORE).sum(),
                (index >= 0).sum(),
                _most_alike(last.clamp(min=0), self.num_media),
                ((index >= 0) & (index < last)).sum(),
                behind_other.sum() + behind_padding.sum(),
            ]
        ).tolist()
        return Extent(max(1, frames), media, learnt, seeing, longest, turned == 0, packed > 0)

    def to(self, *args, **kwargs) -> Batch:
        """As `Tensor.to` on every tensor; a dtype is refused, since ids must stay integers."""
        if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
            raise ValueError("Batch.to moves between devices only: ids and pixels keep their integer types")
        moved = {f.name: getattr(self, f.name).to(*args, **kwargs) for f in dataclasses.fields(self)}
        return self._with(self.extent, **moved)

    def pin_memory(self) -> Batch:
        """The same in pinned memory, from where a GPU takes it beside its work: `to(device, non_blocking=True)`. What is on a
        GPU already stays there."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self._with(self.extent, **{name: t if t.is_cuda else t.pin_memory() for name, t in tensors.items()})

    def without_images(self) -> Batch:
        """The same text with nothing to see: every gated layer is passed untouched, as if all gates were zero (with
        `pass_without_image: false` their feed-forwards still act)."""
        return self._with(
            dataclasses.replace(self.extent, frames=1, media=0, seeing=0, longest=self.tokens.numel(), in_order=True),
            image_index=torch.full_like(self.image_index, -1),
            media_document=self.media_document[:0],
            images=self.images[:0],
            media_of_frame=self.media_of_frame[:0],
            frame_time=self.frame_time[:0],
        )

    def with_blank_images(self, level: int = 255) -> Batch:
        """The same batch with every picture replaced by a uniform one: what the text alone gives away."""
        return self._with(self.extent, images=torch.full_like(self.images, level))

    def with_unseen_image(self, size: int) -> Batch:
        """The same text with one black picture of `size` pixels in its first row that no token sees, in place of all others."""
        batch = self.without_images()
        return batch._with(
            dataclasses.replace(batch.extent, media=1),
            media_document=self.tokens.new_zeros(1, 2),
            images=torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.tokens.device),
            media_of_frame=self.tokens.new_zeros(1),
            frame_time=torch.zeros(1, device=self.tokens.device),
        )

    def in_whole(self, columns: int) -> Batch:
        """The same prompts padded to a multiple of `columns` tokens, and with an extent that is the most it can be wherever it
        may be more than it is: so that few kinds of batches are met."""
        rows, length = self.tokens.shape
        length += -length % columns
        fill = {"tokens": 0, "labels": IGNORE, "document": -1, "image_index": -1}
        tensors = {n: F.pad(getattr(self, n), (0, length - self.tokens.shape[1]), value=v) for n, v in fill.items()}
        more = torch.arange(self.tokens.shape[1], length, device=self.tokens.device).expand(rows, -1)
        tensors["positions"] = torch.cat((self.positions, more), dim=1)
        extent = dataclasses.replace(self.extent, learnt=0, seeing=rows * length, longest=rows * length)
        return self._with(extent, **tensors)

    def copied(self) -> Batch:
        """With tensors of its own."""
        return self._with(self.extent, **{f.name: getattr(self, f.name).clone() for f in dataclasses.fields(self)})

    def _with(self, extent: Extent, **tensors: Tensor) -> Batch:
        """A copy with other tensors, whose extent is known."""
        batch = dataclasses.replace(self, **tensors)
        batch.__dict__["extent"] = extent  # where `cached_property` keeps it
        return batch


def _most_alike(index: Tensor, count: int) -> Tensor:
    """[] how often the most frequent of the numbers 0 … count - 1 stands in `index`; 0 for none."""
    return index.new_zeros(count + 1).index_add(0, index, torch.ones_like(index)).max()
