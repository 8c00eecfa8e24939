"""The model: encoder → resampler → gated cross-attention between the layers of a text decoder.

Groups that training freezes or unfreezes by name: `encoder`, `resampler`, `fusion`, `decoder`. Nothing here knows of devices,
precision or distribution.

B rows, T tokens, M media, N frames, R latents, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoders import Encoder, build_encoder
from vlm.batch import IGNORE, Batch
from vlm.cache import Cache
from vlm.config import ModelConfig
from vlm.decoder import BeforeLayer, Hidden, TextDecoder
from vlm.fusion import GatedCrossAttention
from vlm.losses import nll_sum, total_loss
from vlm.moe import RouterStats
from vlm.resampler import NoResampler, PerceiverResampler
from vlm.sight import Sight, varying
from vlm.writer import Writer

GROUPS = ("encoder", "resampler", "fusion", "decoder")
MediaKeys = dict[str, tuple[Tensor, Tensor]]  # layer → each medium's keys and values, [M, R, H, h]


@dataclass(frozen=True)
class Output:
    """What a forward pass gives. `loss` is of this batch alone; `nll`, `learnt` and `router` are sums to combine over ranks."""

    logits: Tensor | None  # [B, T, V]
    loss: Tensor  # []
    nll: Tensor  # [] summed over learnt tokens
    learnt: Tensor  # [] number of learnt tokens
    router: RouterStats | None


class VLM(Writer, nn.Module):
    """`model(batch)` → `Output`; `model.generate(batch)` → tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = build_encoder(config.encoder)
        resampler, dim = config.resampler, self.encoder.dim
        self.resampler = PerceiverResampler(resampler, dim) if resampler else NoResampler()
        latent_dim, gated = resampler.dim if resampler else dim, config.fusion.gated_layers(config.decoder.num_layers)
        self.fusion = nn.ModuleDict({str(i): GatedCrossAttention(config.fusion, config.decoder.dim, latent_dim) for i in gated})
        self.decoder = TextDecoder(config.decoder)

    def group(self, name: str) -> nn.Module:
        """The part of that name, one of GROUPS (`ValueError` otherwise)."""
        if name not in GROUPS:
            raise ValueError(f"no parameter group {name!r}; there are {', '.join(GROUPS)}")
        return getattr(self, name)

    def forward(self, batch: Batch, *, with_logits: bool = True) -> Output:
        """Teacher-forced pass. Training leaves the logits out: the loss makes only those it needs."""
        hidden = self.hidden(batch)
        nll = nll_sum(hidden.states, batch.labels, self.decoder.head_weight, batch.extent.learnt)
        learnt = (batch.labels != IGNORE).sum()
        loss = total_loss(nll, learnt, hidden.router, self.config.decoder)
        return Output(self.decoder.logits(hidden.states) if with_logits else None, loss, nll, learnt, hidden.router)

    def hidden(self, batch: Batch) -> Hidden:
        """The decoder's last states, before its head."""
        batch, media = self.media(batch)
        return self.decoder.hidden(
            batch.tokens,
            batch.positions,
            batch.document,
            packed=batch.extent.packed,
            sees=batch.image_index >= 0,
            before_layer=self._before_layer(batch, media),
        )

    def latents(self, batch: Batch) -> Tensor:
        """[M, R, D] of the batch's media; without a resampler the encoder's tokens."""
        patches = self.encoder(batch.images)
        return self.resampler(patches, batch.media_of_frame, batch.frame_time, batch.num_media, batch.extent.frames)

    def media_keys(self, latents: Tensor) -> MediaKeys:
        """Each gated layer's keys and values of the media."""
        projected = {name: block.project_media(latents) for name, block in self.fusion.items()}
        return {name: (varying(k), varying(v)) for name, (k, v) in projected.items()}

    def media(self, batch: Batch) -> tuple[Batch, MediaKeys | None]:
        """Keys and values of the batch's media; `None` where the fusion has nothing to do.

        A batch without media still runs a blank one, seen by no token, while vision is being trained: each rank then has a
        (zero) gradient for each parameter, whatever its rows hold.
        """
        if not self.fusion:
            return batch, None
        if batch.num_media:
            return batch, self.media_keys(self.latents(batch))
        trained = torch.is_grad_enabled() and any(p.requires_grad for g in GROUPS[:3] for p in self.group(g).parameters())
        if not trained and self.config.fusion.pass_without_image:
            return batch, None
        blank = batch.with_unseen_image(self.config.encoder.image_size)
        return blank, self.media_keys(self.latents(blank))

    def _before_layer(self, batch: Batch, media: MediaKeys | None) -> BeforeLayer | None:
        return None if media is None else self._gated(media, self._sight(batch, media))

    def _sight(self, batch: Batch, media: MediaKeys) -> Sight:
        _, values = next(iter(media.values()))
        return Sight.of(batch, self.config.fusion.sees, values)

    def _gated(self, media: MediaKeys, sight: Sight) -> BeforeLayer:
        def before_layer(index: int, x: Tensor) -> Tensor:
            name = str(index)
            return self.fusion[name](x, media[name], sight) if name in media else x

        return before_layer

    def states(self, batch: Batch) -> Tensor:
        return self.hidden(batch).states

    def read_prompts(self, batch: Batch, cache: Cache) -> Tensor:
        batch, cache.media = self.media(batch)
        sight = None if cache.media is None else self._sight(batch, cache.media)
        cache.sight = None if sight is None else sight.after(batch.lengths - 1)
        return self.decoder.read_prompts(batch, cache, **self._vision(cache.media, sight))

    def decode_step(self, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        return self.decoder.decode_step(tokens, positions, cache, **self._vision(cache.media, cache.sight))

    def _vision(self, media: MediaKeys | None, sight: Sight | None) -> dict[str, Any]:
        """What the decoder is told of images, as arguments of its `hidden`."""
        return {} if media is None or sight is None else {"sees": sight.sees, "before_layer": self._gated(media, sight)}
