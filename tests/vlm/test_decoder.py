"""The text decoder as it starts. That it is the published ones with their weights: tests/vlm/interop."""

from __future__ import annotations

import torch

from vlm import DecoderConfig, TextDecoder


def test_a_new_decoder_gives_each_tokens_own_embedding() -> None:
    """Projections into the stream start at zero, so logits are the normed embedding against the table."""
    model = TextDecoder(
        DecoderConfig(vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, num_experts=2, expert_dim=8)
    )
    tokens = torch.randint(0, 50, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model.norm(model.embedding(tokens)) @ model.embedding.weight.T)
