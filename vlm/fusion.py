"""Gated cross-attention: how text sees. Blocks of it stand between the decoder's layers.

    x ← x + tanh(α) · cross_attention(norm x, latents)
    x ← x + tanh(β) · ffn(norm x)                      (Alayrac et al., 2022, figure 4)

With both gates at 0 a block is the identity, so a new model is exactly its text decoder; a token that sees no image passes both
sublayers untouched whatever the gates, so text alone stays exactly the decoder's for ever. The options of FusionConfig make
it Idefics' block: RMS norms, a gated feed-forward, gates for each channel, normed queries and keys.

B rows, T tokens, M media, R latents a medium, G most media in a row, D model width, H heads, h head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.activation import Act
from vlm.batch import Batch
from vlm.config import FusionConfig


@dataclass(frozen=True)
class Sight:
    """Which media each token may look at; computed once a forward pass and shared by all blocks."""

    media: Tensor  # [B, G] the media of each row, padded with 0
    mask: Tensor  # bool [B, T, G]
    sees: Tensor  # bool [B, T] has the token anything to look at

    @classmethod
    def of(cls, batch: Batch, mode: Literal["last", "all"] = "last") -> Sight:
        """From the batch's indices. `last`: the last medium before a token; `all`: every medium before it in its document."""
        rows, documents = batch.media_document.unbind(dim=1)
        count = torch.bincount(rows, minlength=batch.tokens.shape[0])
        index = torch.arange(batch.num_media, device=rows.device)
        slot = (rows[:, None] == rows).tril(-1).sum(dim=1)  # media of its row before it: rows' media may stand in any order
        media = torch.full((len(count), int(count.max())), -1, device=rows.device)
        media[rows, slot] = index
        last = batch.image_index[:, :, None]
        if mode == "last":
            mask = media[:, None] == last
        else:
            same = documents[media][:, None] == batch.document[:, :, None]
            mask = same & (media[:, None] <= last) & (media[:, None] >= 0)
        sees = batch.image_index >= 0
        return cls(media.clamp(min=0), mask & sees[:, :, None], sees)

    def after(self, last: Tensor) -> Sight:
        """What one more token in each row sees: the same as the row's token at `last` [B]."""
        rows = torch.arange(len(last), device=last.device)
        return Sight(self.media, self.mask[rows, last][:, None], self.sees[rows, last][:, None])

    def of_rows(self, index: Tensor) -> Sight:
        return Sight(self.media[index], self.mask[index], self.sees[index])


class GatedCrossAttention(nn.Module):
    """One gated block: `attention_gate` and `ffn_gate` are the α and β above, [1] or [D]."""

    def __init__(self, config: FusionConfig, dim: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        inner = config.num_heads * config.head_dim
        self.attention_norm = _norm(config, dim)
        self.query = nn.Linear(dim, inner, bias=False)
        self.key_value = nn.Linear(latent_dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        self.query_norm, self.key_norm = (
            _norm(config, config.head_dim) if config.query_key_norm else nn.Identity() for _ in range(2)
        )
        self.attention_gate = nn.Parameter(torch.empty(dim if config.gate == "channel" else 1))
        gated = config.ffn == "gated"
        self.ffn = nn.Sequential(
            _norm(config, dim),
            nn.Linear(dim, config.ffn_dim * (2 if gated else 1), bias=False),  # gated: gate and up side by side
            Act(config.activation, gated=gated),
            nn.Linear(config.ffn_dim, dim, bias=False),
        )
        self.ffn_gate = nn.Parameter(torch.empty_like(self.attention_gate))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()
        for gate in (self.attention_gate, self.ffn_gate):
            nn.init.constant_(gate, self.config.gate_init)

    def project_media(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [M, R, Dl] → keys and values [M, R, H, h] each: computed once an image, however long the text."""
        k, v = self.key_value(latents).unflatten(-1, (2, self.config.num_heads, self.config.head_dim)).unbind(dim=2)
        return self.key_norm(k), v

    def forward(self, x: Tensor, media: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """[B, T, D] → [B, T, D]; `media` from `project_media`."""
        k, v = (m[sight.media].flatten(1, 2).transpose(1, 2) for m in media)
        mask = self._latent_mask(sight, media[0].shape[1])
        y = F.scaled_dot_product_attention(self._queries(x), k, v, attn_mask=mask[:, None])
        sees = sight.sees[:, :, None]
        x = torch.where(sees, x + self.attention_gate.tanh() * self.out(y.transpose(1, 2).flatten(2)), x)
        after = x + self.ffn_gate.tanh() * self.ffn(x)
        return torch.where(sees, after, x) if self.config.pass_without_image else after

    def attention(self, x: Tensor, media: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """How much each token takes from each latent of its row's media, mean over heads: [B, T, G, R]."""
        k = media[0][sight.media].flatten(1, 2).transpose(1, 2)
        scores = self._queries(x) @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
        scores = scores.masked_fill(~self._latent_mask(sight, media[0].shape[1])[:, None], float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1).unflatten(-1, (sight.media.shape[1], -1))

    def _queries(self, x: Tensor) -> Tensor:
        q = self.query(self.attention_norm(x)).unflatten(-1, (self.config.num_heads, -1))
        return self.query_norm(q).transpose(1, 2)

    @staticmethod
    def _latent_mask(sight: Sight, num_latents: int) -> Tensor:
        """bool [B, T, G·R]. A token with nothing to see is given everything, to keep softmax finite; its result is not used."""
        return (sight.mask | ~sight.sees[:, :, None]).repeat_interleave(num_latents, dim=-1)


def _norm(config: FusionConfig, dim: int) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(dim, eps=config.norm_eps)
