"""Which media each token looks at, and attention to just those: its cost is that of each token's own media.

With `sees: last` a token reads the latents of one medium, and stretches of the text share one. Two ways to go by stretches:

    Runs    one kernel for stretches of any length, on the text as it lies: torch.nn.attention.varlen; half precision on a GPU
    Blocks  BLOCK tokens of one medium at a time, gathered and put back; any device, precision and order of media

Neither computes a score that a mask would take away, nor asks the GPU how many stretches there are. With `sees: all`, and for
the one new token of a row in generation, a row's tokens read all its media (`Rows`).

B rows, T tokens, M media, R latents a medium, H heads, h head size, G most media in a row, K blocks, c = BLOCK.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.batch import Batch

BLOCK = 64  # tokens; a medium's last block is filled up
WIDEST = 256  # head size that the kernel of `Runs` takes


@dataclass(frozen=True)
class Rows:
    """Each row's tokens read all its media, less what a mask hides."""

    media: Tensor  # [B, G]; rows with fewer are filled up with 0
    mask: Tensor | None  # bool [B, T, G], something for each token; `None`: all

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """Every medium before a token in its document."""
        rows, documents = batch.media_document.unbind(dim=1)
        index = torch.arange(batch.num_media, device=rows.device)
        slot = (rows[:, None] == rows).tril(-1).sum(dim=1)  # media of its row before it: rows' media may stand in any order
        media = torch.full((len(batch.tokens), batch.extent.media), -1, device=rows.device)
        media[rows, slot] = index
        last = batch.image_index[:, :, None]
        mask = (documents[media][:, None] == batch.document[:, :, None]) & (media[:, None] <= last) & (media[:, None] >= 0)
        mask |= last < 0  # to see all, and not use it, keeps softmax finite
        return cls(varying(media.clamp(min=0), 1), varying(mask, 2))

    def gather(self, media: Tensor) -> Tensor:
        """[M, R, H, h] → each row's own, [B, H, G·R, h]."""
        return media[self.media].flatten(1, 2).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend_gathered(q, self.gather(k), self.gather(v))

    def attend_gathered(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, T, H, h] queries, keys and values from `gather` → [B, T, H, h]."""
        mask = self.latent_mask(k.shape[2] // self.media.shape[1])
        return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask).transpose(1, 2)

    def latent_mask(self, num_latents: int) -> Tensor | None:
        """bool [B, 1, T, G·R]"""
        return None if self.mask is None else self.mask.repeat_interleave(num_latents, dim=-1)[:, None]

    def at(self, last: Tensor) -> Rows:
        """Of each row's token at `last` [B] alone."""
        rows = torch.arange(len(last), device=last.device)
        return Rows(self.media, None if self.mask is None else self.mask[rows, last][:, None])

    def of_rows(self, index: Tensor) -> Rows:
        return Rows(self.media[index], None if self.mask is None else self.mask[index])


@dataclass(frozen=True)
class Blocks:
    """Each token reads one medium; tokens of the same one are taken together, in blocks."""

    media: Tensor  # [K]
    tokens: Tensor  # [K·c] which of the B·T tokens stand in the blocks; a filler's place has token 0
    place: Tensor  # [B·T] where in the blocks each token stands; 0 for one that sees nothing

    @classmethod
    def of(cls, batch: Batch) -> Blocks:
        """The last medium before each token."""
        index, num_media = batch.image_index.flatten(), batch.num_media
        media = torch.where(index < 0, num_media, index)  # those that see nothing come last
        order = media.argsort(stable=True)
        count = index.new_zeros(num_media + 1).index_add(0, media, torch.ones_like(media))
        blocks = (count + BLOCK - 1) // BLOCK
        ends = blocks.cumsum(0)
        most = max(2, (batch.extent.seeing + num_media * (BLOCK - 1)) // BLOCK)  # K; 1 would be compiled apart
        here = media[order]
        nth = torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[here]  # of its medium's tokens
        sorted_place = torch.where(here < num_media, (ends - blocks)[here] * BLOCK + nth, most * BLOCK)
        place = torch.empty_like(order).scatter(0, order, sorted_place)
        tokens = order.new_zeros(most * BLOCK + 1).scatter(0, sorted_place, order)[:-1]
        of_block = torch.searchsorted(ends[:-1], torch.arange(most, device=order.device), right=True).clamp(max=num_media - 1)
        return cls(varying(of_block), varying(tokens), torch.where(index < 0, 0, place))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        blocks = q.flatten(0, 1).index_select(0, self.tokens).unflatten(0, (-1, BLOCK))
        k, v = (m.index_select(0, self.media).transpose(1, 2) for m in (k, v))
        y = F.scaled_dot_product_attention(blocks.transpose(1, 2), k, v).transpose(1, 2)
        return y.flatten(0, 1).index_select(0, self.place).view_as(q)


@dataclass(frozen=True)
class Runs:
    """Each token reads one medium, and media are numbered in the order of the text: their tokens are runs of it.

    A token that sees nothing is taken into the run before it; its result is not used.
    """

    starts: Tensor  # int32 [M + 1] where each medium's run begins in the B·T tokens, and where the last one ends
    longest: Tensor  # as long as the longest run: compiled code takes a tensor's size as it comes, and a number for fixed

    @classmethod
    def of(cls, batch: Batch) -> Runs:
        """The last medium before each token."""
        media = batch.image_index.flatten().cummax(dim=0).values.clamp(min=0)
        starts = torch.searchsorted(media, torch.arange(batch.num_media + 1, device=media.device), out_int32=True)
        return cls(varying(starts), varying(starts[:1].expand(batch.extent.longest)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # brings the compiler with it

        latents = k.shape[1]
        tokens, keys, values = (x.flatten(0, 1).to(v.dtype) for x in (q, k, v))  # norms give float32 under autocast
        of_media = torch.arange(len(self.starts), dtype=torch.int32, device=k.device) * latents
        return varlen_attn(tokens, keys, values, self.starts, of_media, len(self.longest), latents).view_as(q)  # type: ignore[union-attr]

    @staticmethod
    def take(batch: Batch, values: Tensor) -> bool:
        """Is there a kernel for it?"""
        half = values.dtype in (torch.float16, torch.bfloat16)
        return values.is_cuda and half and values.shape[-1] % 8 == 0 and values.shape[-1] <= WIDEST and batch.extent.in_order


@dataclass(frozen=True)
class Sight:
    """Which media each token looks at, and how it is done; computed once a forward pass and shared by all gated blocks."""

    sees: Tensor  # bool [B, T] has the token anything to look at
    last: Tensor  # [B, T] the last medium before it; 0 for none
    by: Rows | Blocks | Runs

    @classmethod
    def of(cls, batch: Batch, mode: Literal["last", "all"] = "last", values: Tensor | None = None) -> Sight:
        """`last`: the last medium before a token; `all`: every medium before it in its document. `values` [M, R, H, h] say what
        kernels there are for their device and precision."""
        by = Rows if mode == "all" else Blocks if values is None or not Runs.take(batch, values) else Runs
        return cls(batch.image_index >= 0, batch.image_index.clamp(min=0), by.of(batch))

    def after(self, last: Tensor) -> Sight:
        """What one more token in each row sees, by `Rows`: the same as the row's token at `last` [B]."""
        rows = torch.arange(len(last), device=last.device)
        medium = self.last[rows, last][:, None]
        by = self.by.at(last) if isinstance(self.by, Rows) else Rows(medium, None)
        return Sight(self.sees[rows, last][:, None], medium, by)

    def tensors(self) -> list[Tensor]:
        """Of a sight by `Rows`."""
        assert isinstance(self.by, Rows)
        return [self.sees, self.last, self.by.media] + ([] if self.by.mask is None else [self.by.mask])

    def of_rows(self, index: Tensor) -> Sight:
        """Of rows `index` alone, by `Rows`."""
        assert isinstance(self.by, Rows)
        return Sight(self.sees[index], self.last[index], self.by.of_rows(index))


def varying(tensor: Tensor, *dims: int) -> Tensor:
    """`tensor`, whose sizes in `dims` (default: the first) differ from batch to batch: once compiled, code is to take any."""
    dynamo = sys.modules.get("torch._dynamo")  # imported with the first compilation; takes a second
    if dynamo is not None:
        for dim in dims or (0,):
            dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor
