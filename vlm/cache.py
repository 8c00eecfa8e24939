"""What generation keeps: keys and values of each decoder layer, and of each gated layer's images.

The cache is static, [B, K, S, h] a layer. Rows are ragged: a token is written at its own position, so a short prompt's padding
is overwritten by the tokens generated after it, and a query sees the keys up to its own position and no other.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.config import DecoderConfig
from vlm.sight import Sight


class LayerCache:
    """Keys and values of one layer, [B, K, S, h] each; `positions` [B, T] says where the next tokens are written."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, shifted: int = 0) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.unturned = self.keys.new_zeros(shape[0], shifted, *shape[2:])  # keys of shifted heads before shift and rotation
        self.positions = torch.empty(0, 0, dtype=torch.int64, device=device)  # `Cache.place` sets it

    def previous(self, keys: Tensor) -> Tensor:
        """Keep the shifted heads' keys [B, s, T, h]; returns those of the token before each (before the first: its own)."""
        index = self.positions[:, None, :, None].expand_as(keys)
        self.unturned.scatter_(2, index, keys.to(self.unturned.dtype))
        return self.unturned.gather(2, (index - 1).clamp(min=0))

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, K, T, h] at `positions` and return all keys and values."""
        index = self.positions[:, None, :, None].expand_as(keys)
        self.keys.scatter_(2, index, keys.to(self.keys.dtype))  # under autocast they come in another precision
        self.values.scatter_(2, index, values.to(self.values.dtype))
        return self.keys, self.values

    def reorder(self, index: Tensor) -> None:
        """Go on with rows `index`."""
        self.keys, self.values, self.unturned = (t[index] for t in (self.keys, self.values, self.unturned))


@dataclass
class Cache:
    """One generation's state. `media` holds each gated layer's keys and values of the images, computed once and shared by all
    rows; `sight` says which of them each row's new tokens see."""

    layers: list[LayerCache]
    media: dict[str, tuple[Tensor, Tensor]] | None = None
    sight: Sight | None = None

    @classmethod
    def empty(cls, config: DecoderConfig, batch_size: int, length: int, device: torch.device, dtype: torch.dtype) -> Cache:
        """A cache for prompts and continuations of at most `length` tokens."""
        shape = (batch_size, config.num_kv_heads, length, config.head_size)
        return cls([LayerCache(shape, device, dtype, config.shifted_kv_heads) for _ in range(config.num_layers)])

    def place(self, positions: Tensor) -> Tensor:
        """Announce where the next tokens go, [B, T]; returns which keys each may see, bool [B, 1, T, S]."""
        for layer in self.layers:
            layer.positions = positions
        steps = torch.arange(self.layers[0].keys.shape[2], device=positions.device)
        return (steps <= positions[:, :, None])[:, None]

    def of_rows(self, index: Tensor) -> Cache:
        """A copy with rows `index` alone; the media are shared."""
        new = dataclasses.replace(self, layers=[copy.copy(layer) for layer in self.layers])
        new.reorder(index)
        return new

    def copied(self) -> Cache:
        """With tensors of its own."""
        keys = self.layers[0].keys
        new = self.of_rows(torch.arange(len(keys), device=keys.device))
        new.media = None if self.media is None else {name: (k.clone(), v.clone()) for name, (k, v) in self.media.items()}
        return new

    def tensors(self) -> list[Tensor]:
        """All that the next step reads."""
        found = [t for layer in self.layers for t in (layer.keys, layer.values, layer.unturned) if t.numel()]
        if self.media is not None and self.sight is not None:
            found += [t for pair in self.media.values() for t in pair] + self.sight.tensors()
        return found

    def reorder(self, index: Tensor) -> None:
        """Go on with rows `index` [B'], in that order; a row may be left out, or taken several times."""
        for layer in self.layers:
            layer.reorder(index)
        if self.sight is not None:
            self.sight = self.sight.of_rows(index)

    def expand(self, count: int) -> None:
        """Each row `count` times, copies side by side."""
        keys = self.layers[0].keys
        self.reorder(torch.arange(len(keys), device=keys.device).repeat_interleave(count))
