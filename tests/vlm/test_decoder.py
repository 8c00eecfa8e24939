"""The text decoder as it starts. That it is the published ones with their weights: tests/vlm/interop."""

from __future__ import annotations

import torch

from vlm import DecoderConfig, TextDecoder
from vlm.cache import Cache


def test_a_new_decoder_gives_each_tokens_own_embedding() -> None:
    """Projections into the stream start at zero, so logits are the normed embedding against the table."""
    model = TextDecoder(
        DecoderConfig(vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, num_experts=2, expert_dim=8)
    )
    tokens = torch.randint(0, 50, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model.norm(model.embedding(tokens)) @ model.embedding.weight.T)


def test_statistics_of_the_router_are_for_training_alone() -> None:
    """With a cache they would be made for nothing, a sixth of a step's time on a CPU."""
    config = DecoderConfig(
        vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, num_experts=2, top_k=1, expert_dim=8
    )
    model, tokens = TextDecoder(config), torch.randint(0, 50, (1, 9))
    assert model.hidden(tokens).router is not None
    cache = Cache.empty(config, 1, 9, tokens.device, torch.float32)
    assert model.hidden(tokens, cache=cache, packed=False).router is None
