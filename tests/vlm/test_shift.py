"""Key heads that carry the previous token's key: the same alone, packed and cached, and what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vlm_fakes import CONFIG, DOCUMENTS, build, change

from vlm import DecoderConfig, TextDecoder
from vlm.attention import Attention, document_mask
from vlm.rope import rotary_table

SHIFTED = CONFIG.decoder.num_kv_heads


def test_a_shifted_head_sees_the_key_of_the_token_before() -> None:
    plain_config = DecoderConfig(dim=16, num_heads=2, num_kv_heads=2)
    plain = Attention(plain_config)
    shifted = Attention(DecoderConfig(dim=16, num_heads=2, num_kv_heads=2, shifted_kv_heads=2))
    shifted.load_state_dict(plain.state_dict())
    positions, document = torch.arange(5)[None], torch.zeros(1, 5, dtype=torch.int64)
    x, first = torch.randn(1, 5, 16), positions == 0
    before = torch.cat((x[:, :1], x[:, :-1]), dim=1)

    mask, rotary = document_mask(document), rotary_table(positions, document, plain_config)
    expected = plain.key.forward
    plain.key.forward = lambda _: expected(before)
    assert torch.allclose(shifted(x, rotary, mask, first), plain(x, rotary, mask, first), atol=1e-6)


def test_cached_generation_equals_recomputation(processor) -> None:
    model = build(change(decoder={"shifted_kv_heads": 1}))
    batch = processor(DOCUMENTS)
    out = model.generate(batch, max_new_tokens=4)
    for row, document in enumerate(DOCUMENTS):
        prompt = processor.encode(document)
        tokens = torch.tensor(list(prompt.tokens) + out.tokens[row])[None]
        if prompt.media:
            continue  # with images: tests/vlm/test_generate.py, whose cache is the same
        logits = model.decoder(tokens)[0]
        assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == out.tokens[row]


def test_it_finds_what_followed_a_name_in_a_few_steps() -> None:
    """Four names with values, asked for: at chance (1 in 4) after as many steps without the shift."""
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "num_experts": 1, "top_k": 1}
    model = TextDecoder(DecoderConfig(**shape, expert_dim=64, shifted_kv_heads=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    accuracy = 0.0
    for _ in range(120):
        tokens, values = _lookups(24)
        logits = model(tokens)[:, -1]
        torch.nn.functional.cross_entropy(logits, values).backward()
        optimizer.step()
        optimizer.zero_grad()
        accuracy = 0.9 * accuracy + 0.1 * float((logits.argmax(dim=-1) == values).float().mean())
    assert accuracy > 0.6


def _lookups(rows: int) -> tuple[Tensor, Tensor]:
    """[B, 10] name value name value … name, and [B] the value that followed that name."""
    names = torch.stack([torch.randperm(8)[:4] for _ in range(rows)])
    values = torch.randint(30, 39, (rows, 4))
    asked = torch.randint(0, 4, (rows, 1))
    tokens = torch.stack((names + 10, values), dim=2).flatten(1)
    return torch.cat((tokens, torch.full((rows, 1), 5), names.gather(1, asked) + 10), dim=1), values.gather(1, asked)[:, 0]


@pytest.mark.parametrize("count", [-1, 3])
def test_the_number_of_shifted_heads_is_checked(count: int) -> None:
    with pytest.raises(ValueError, match="shifted_kv_heads"):
        DecoderConfig(num_heads=4, num_kv_heads=2, shifted_kv_heads=count)
