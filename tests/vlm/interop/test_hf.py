"""load_hf and export against transformers, which makes the checkpoints and reads ours (hf_fakes.CASES)."""

from __future__ import annotations

import hf_fakes
import pytest
import torch
from hf_fakes import CASES, NAMES, pad, rows

from vlm.cache import Cache
from vlm.interop import export, load_hf

every_case = pytest.mark.parametrize(("kind", "fields"), CASES, ids=NAMES)


def close(found, expected, atol=1e-4):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@torch.no_grad()
def ours(model, tokens):
    batch, real = pad(tokens)
    out = model(batch, document=torch.where(real, 0, -1))
    return [out[b, : len(row)] for b, row in enumerate(tokens)]


@torch.no_grad()
def cached(model, tokens, prompt):
    """Logits of each position of [B, T]: `prompt` tokens at once, then token by token."""
    cache = Cache.empty(model.config, *tokens.shape, tokens.device, torch.float32)
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    steps = [slice(0, prompt), *(slice(i, i + 1) for i in range(prompt, tokens.shape[1]))]
    hidden = [model.hidden(tokens[:, s], places[:, s], cache=cache).states for s in steps]
    return model.logits(torch.cat(hidden, dim=1))


@torch.no_grad()
def cached_theirs(peer, tokens, prompt):
    out = peer(tokens[:, :prompt], use_cache=True)
    found = [out.logits]
    for i in range(prompt, tokens.shape[1]):
        out = peer(tokens[:, i : i + 1], past_key_values=out.past_key_values, use_cache=True)
        found.append(out.logits)
    return torch.cat(found, dim=1)


@every_case
def test_logits_with_padding_and_with_cache(kind, fields, tmp_path):
    peer = hf_fakes.make(kind, fields)
    model = load_hf(hf_fakes.save(peer, tmp_path / "hf"))
    tokens = rows()
    expected = hf_fakes.logits(peer, tokens)
    assert max(e.abs().max() for e in expected) > 0.5
    close(ours(model, tokens), expected)
    row = tokens[0][None]
    close(cached(model, row, 11), cached_theirs(peer, row, 11))


@every_case
def test_a_round_trip_gives_transformers_the_same_model(kind, fields, tmp_path):
    peer = hf_fakes.make(kind, fields)
    model = load_hf(hf_fakes.save(peer, tmp_path / "hf", max_shard_size="20KB"))
    family = kind if model.config.num_experts > 1 or kind != "mixtral" else None  # one expert is no mixture
    export(model, tmp_path / "ours", family, max_shard_bytes=20_000)
    back = hf_fakes.read(tmp_path / "ours")
    if family is not None:
        assert back.config.model_type == kind
        theirs = peer.state_dict()
        assert back.state_dict().keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in back.state_dict().items())
    tokens = rows()
    close(hf_fakes.logits(back, tokens), hf_fakes.logits(peer, tokens), atol=1e-5)
    again = load_hf(tmp_path / "ours")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@every_case
def test_bf16_errs_no_more_than_theirs(kind, fields, tmp_path):
    """Both against float32 with the same rounded weights. The middle token: where two experts score nearly the same, bf16 may
    take the other one, in their model as in ours."""
    peer = hf_fakes.make(kind, fields).bfloat16()
    directory = hf_fakes.save(peer, tmp_path)
    model = load_hf(directory, dtype=None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tokens = rows((37,))
    exact = ours(load_hf(directory), tokens)[0]
    error, theirs = (
        (out[0].float() - exact).square().mean(dim=-1).sqrt().median()
        for out in (ours(model, tokens), hf_fakes.logits(peer, tokens))
    )
    assert error <= 1.5 * theirs
