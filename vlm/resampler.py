"""Perceiver resampler: the patches of a picture, or of all frames of a clip, → a fixed number of latents.

M media, N frames over all media, P patches a frame, R latents, D latent width.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.positions import sincos_grid
from vlm.activation import Act
from vlm.config import ResamplerConfig
from vlm.sight import varying

GRID_GAIN = 1.5  # of queries and keys at the start: a latent's own place gets most of its attention


class ResamplerLayer(nn.Module):
    """Latents attend to patches and to themselves, then a feed-forward (Alayrac et al., 2022, appendix A.1.1)."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        inner, norm = config.num_heads * config.head_size, partial(nn.LayerNorm, eps=config.norm_eps)
        self.latent_norm = norm(config.dim)
        self.patch_norm = norm(config.dim)
        self.query = nn.Linear(config.dim, inner, bias=False)
        self.key_value = nn.Linear(config.dim, 2 * inner, bias=False)
        self.query_norm, self.key_norm = (norm(config.head_size) if config.query_key_norm else nn.Identity() for _ in range(2))
        self.out = nn.Linear(inner, config.dim, bias=False)
        self.ffn = nn.Sequential(
            norm(config.dim),
            nn.Linear(config.dim, config.ffn_dim, bias=False),
            Act(config.activation),
            nn.Linear(config.ffn_dim, config.dim, bias=False),
        )

    def forward(self, latents: Tensor, patches: Tensor, mask: Tensor | None) -> Tensor:
        """[M, R, D], [M, P', D], bool [M, P'] (real patches; `None`: all) → [M, R, D]."""
        q, k, v, mask = self._project(latents, patches, mask)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        latents = latents + self.out(y.transpose(1, 2).flatten(2))
        return latents + self.ffn(latents)

    def attention(self, latents: Tensor, patches: Tensor, mask: Tensor | None) -> Tensor:
        """How much each latent takes from each patch, mean over heads: [M, R, P']."""
        q, k, _, mask = self._project(latents, patches, mask)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1)[..., : patches.shape[1]]

    def _project(self, latents: Tensor, patches: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        normed = self.latent_norm(latents)
        k, v = self.key_value(torch.cat((self.patch_norm(patches), normed), dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (self.query(normed), k, v))
        mask = None if mask is None else F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None]
        return self.query_norm(q), self.key_norm(k), v, mask


class NoResampler(nn.Module):
    """The encoder's tokens [M, P, Dv] as they are, in a latents' place. A medium is one picture: a clip's frames would differ
    in number, and nothing would tell their times."""

    def forward(
        self, patches: Tensor, media_of_frame: Tensor, frame_time: Tensor, num_media: int, most: int | None = None
    ) -> Tensor:
        if len(patches) != num_media:
            raise ValueError(f"a model without resampler takes single pictures, not {len(patches)} frames of {num_media} media")
        return patches


class PerceiverResampler(nn.Module):
    """Patch tokens [N, P, Dv] of the frames → latents [M, R, D] of the media.

    Frames of one clip share latents; each frame's patches carry a learned embedding of its time, interpolated between table
    entries one second apart and held after the last. An image is a clip of one frame at time 0.
    """

    def __init__(self, config: ResamplerConfig, encoder_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.dim))
        self.time = nn.Parameter(torch.empty(config.max_frames, config.dim))
        self.project = nn.Linear(encoder_dim, config.dim) if encoder_dim != config.dim else nn.Identity()
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.latents)
        nn.init.zeros_(self.time)
        if self.config.start == "grid":
            self._start_on_a_grid()

    def _start_on_a_grid(self) -> None:
        """Latents begin as the places of a coarse grid, and look there first.

        Where a patch carries its place as sines and cosines (encoders/timm_vit.py), a latent starts with most of its attention
        near its own. Latents that begin at random all see nearly the same mean of the picture, and a small model from scratch
        takes long to tell places apart. The latents are the grid's codes turned by a random rotation that the queries turn back
        again: else a latent's key would match its own query best, and it would look at nothing but itself.
        """
        dim = self.config.dim
        turn = nn.init.orthogonal_(torch.empty(dim, dim, device=self.latents.device))
        self.latents.copy_(sincos_grid(math.isqrt(self.config.num_latents), dim).to(turn.device) @ turn.T)
        for layer in self.layers:
            keys = nn.init.orthogonal_(torch.empty_like(layer.query.weight), gain=GRID_GAIN)
            layer.key_value.weight[: len(keys)] = keys
            layer.query.weight.copy_(keys @ turn.T)

    def forward(
        self, patches: Tensor, media_of_frame: Tensor, frame_time: Tensor, num_media: int, most: int | None = None
    ) -> Tensor:
        """`most` is the longest medium's number of frames; not given, it is counted, and the host waits for the device."""
        latents, patches, mask = self.inputs(patches, media_of_frame, frame_time, num_media, most)
        for layer in self.layers:
            latents = layer(varying(latents), patches, mask)
        return self.norm(latents)

    def inputs(
        self, patches: Tensor, media_of_frame: Tensor, frame_time: Tensor, num_media: int, most: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents [M, R, D], patches of each medium side by side [M, f·P, D], and which of them are real, bool [M, f·P], or
        `None` for all. f is `most`."""
        most = int(media_of_frame.bincount().max()) if most is None else most
        x = self.project(patches) + self._time_embedding(frame_time)[:, None]
        latents = self.latents.repeat(num_media, 1, 1)  # in memory, as each layer's are: else compiled apart
        if len(x) == num_media * most:  # each has as many
            return latents, varying(x.unflatten(0, (num_media, most)).flatten(1, 2), 0, 1), None
        frames = media_of_frame.new_zeros(num_media).index_add(0, media_of_frame, torch.ones_like(media_of_frame))
        slot = torch.arange(len(x), device=x.device) - (frames.cumsum(0) - frames)[media_of_frame]
        padded = x.new_zeros(num_media, most, *x.shape[1:]).index_put((media_of_frame, slot), x)
        mask = (torch.arange(most, device=x.device) < frames[:, None]).repeat_interleave(x.shape[1], dim=1)
        return latents, varying(padded.flatten(1, 2), 0, 1), varying(mask, 0, 1)

    def _time_embedding(self, seconds: Tensor) -> Tensor:
        """[N] → [N, D]"""
        place = seconds.clamp(0, len(self.time) - 1)
        low = place.floor().long()
        high = (low + 1).clamp(max=len(self.time) - 1)
        return torch.lerp(self.time[low], self.time[high], (place - low)[:, None].to(self.time.dtype))
