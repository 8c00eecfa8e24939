"""What a query may see: its own document, up to itself, and with a window not far back; the same through a cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from vlm_fakes import randomize

from vlm import DecoderConfig, TextDecoder
from vlm.attention import document_mask, window_mask
from vlm.cache import Cache
from vlm.config import RopeScaling

CONFIG = DecoderConfig(vocab_size=40, dim=16, num_layers=3, num_heads=2, num_kv_heads=1, num_experts=1, top_k=1, expert_dim=8)
OPTIONS = {
    "plain": {},
    "window": {"sliding_window": 3},
    "some layers windowed": {"sliding_window": 2, "full_attention_layers": (1,)},
    "norm a head": {"query_key_norm": "head", "attention_bias": True},
    "norm all heads": {"query_key_norm": "width", "clip_qkv": 0.5},
    "shifted in a window": {"shifted_kv_heads": 1, "sliding_window": 3},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 4)},
}


def decoder(**fields) -> TextDecoder:
    model = TextDecoder(dataclasses.replace(CONFIG, **fields)).double()
    randomize(model)
    return model.eval()


def test_masks_say_what_brute_force_says() -> None:
    document = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 1, 1, 1]])
    place = torch.arange(6).expand(2, 6)
    for window in (None, 1, 2, 4):
        mask = window_mask(document_mask(document), place, window)
        for b in range(2):
            for q in range(6):
                for k in range(6):
                    near = window is None or q - k < window
                    assert bool(mask[b, 0, q, k]) == (k <= q and near and bool(document[b, q] == document[b, k]))


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_a_cache_fed_in_pieces_gives_what_one_pass_gives(fields: dict) -> None:
    model = decoder(**fields)
    tokens = torch.randint(0, 40, (2, 11))
    expected = model(tokens)
    for pieces in ((11,), (5, 1, 1, 4), (1,) * 11):
        cache = Cache.empty(model.config, 2, 13, tokens.device, torch.float64)
        got, start = [], 0
        for n in pieces:
            positions = torch.arange(start, start + n).expand(2, n)
            got.append(model.logits(model.hidden(tokens[:, start : start + n], positions, cache=cache).states))
            start += n
        torch.testing.assert_close(torch.cat(got, dim=1), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_a_packed_row_gives_what_its_documents_give_alone(fields: dict) -> None:
    model = decoder(**fields)
    tokens, lengths = torch.randint(0, 40, (1, 12)), (5, 1, 6)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    alone = torch.cat([model(part) for part in tokens.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(model(tokens, positions, document), alone, atol=1e-9, rtol=0)


def test_set_rope_changes_the_positions_and_the_config() -> None:
    model = decoder()
    tokens = torch.randint(0, 40, (1, 9))
    before, scaling = model(tokens), RopeScaling("linear", 2.0)
    model.set_rope(scaling=scaling)
    again = decoder(rope_scaling=scaling)
    again.load_state_dict(model.state_dict())
    assert model.config == again.config
    assert torch.equal(model(tokens), again(tokens))
    assert not torch.allclose(model(tokens), before)


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_positions_go_by_documents_unless_given(fields: dict) -> None:
    model = decoder(**fields)
    tokens, lengths = torch.randint(0, 40, (1, 12)), (5, 1, 6)
    document = torch.repeat_interleave(torch.tensor([3, 0, -1]), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    assert torch.equal(model(tokens, document=document), model(tokens, positions, document))
