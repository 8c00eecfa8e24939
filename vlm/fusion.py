"""Gated cross-attention: how text sees. Blocks of it stand between the decoder's layers.

    x ← x + tanh(α) · cross_attention(norm x, latents)
    x ← x + tanh(β) · ffn(norm x)                      (Alayrac et al., 2022, figure 4)

With both gates at 0 a block is the identity, so a new model is exactly its text decoder; a token that sees no image passes both
sublayers untouched whatever the gates, so text alone stays exactly the decoder's for ever. The options of FusionConfig make
it Idefics' block: RMS norms, a gated feed-forward, gates for each channel, normed queries and keys.

Which latents a token reads, and how, is the business of vlm/sight.py.

B rows, T tokens, M media, R latents a medium, G most media in a row, D model width, H heads, h head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm.activation import Act
from vlm.config import FusionConfig
from vlm.sight import Rows, Sight


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
        return self._add(x, sight.by.attend(self._queries(x), *media), sight.sees)

    def step(self, x: Tensor, gathered: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """As `forward`, for a `sight` by rows, with keys and values that its `gather` has made: once for many tokens."""
        assert isinstance(sight.by, Rows)
        return self._add(x, sight.by.attend_gathered(self._queries(x), *gathered), sight.sees)

    def attention(self, x: Tensor, media: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """How much each token takes from each latent of its row's media, mean over heads: [B, T, G, R], for a sight by rows."""
        assert isinstance(sight.by, Rows)
        q, k = self._queries(x).transpose(1, 2), sight.by.gather(media[0])
        mask = sight.by.latent_mask(media[0].shape[1])
        scores = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1).unflatten(-1, (sight.by.media.shape[1], -1))

    def _queries(self, x: Tensor) -> Tensor:
        """[B, T, D] → [B, T, H, h]"""
        return self.query_norm(self.query(self.attention_norm(x)).unflatten(-1, (self.config.num_heads, -1)))

    def _add(self, x: Tensor, y: Tensor, sees: Tensor) -> Tensor:
        """What attention gave, [B, T, H, h], and then the feed-forward, to the tokens that see."""
        sees = sees[:, :, None]
        x = torch.where(sees, x + self.attention_gate.tanh() * self.out(y.flatten(2)), x)
        after = x + self.ffn_gate.tanh() * self.ffn(x)
        return torch.where(sees, after, x) if self.config.pass_without_image else after


def _norm(config: FusionConfig, dim: int) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(dim, eps=config.norm_eps)
