"""Gated cross-attention against plain einsum in all its options, and what a token looks at."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from vlm_fakes import CONFIG, DOCUMENTS, build, change, randomize

from vlm.activation import ACTIVATIONS
from vlm.config import FusionConfig
from vlm.fusion import GatedCrossAttention
from vlm.moe import Experts
from vlm.sight import Sight

IDEFICS = {"norm": "rms", "norm_eps": 1e-3, "ffn": "gated", "activation": "silu", "gate": "channel", "query_key_norm": True}


def norm(layer, x):
    if isinstance(layer, nn.Identity):
        return x
    if isinstance(layer, nn.RMSNorm):
        return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def ffn(block, x):
    first, up, _, down = block.ffn
    hidden = up.weight @ norm(first, x)
    act = ACTIVATIONS[block.config.activation]
    if block.config.ffn == "plain":
        return down.weight @ act(hidden)
    return down.weight @ (act(hidden[: len(hidden) // 2]) * hidden[len(hidden) // 2 :])


def plain_block(block, x, latents, visible):
    """One token, its own visible latents, one head at a time. `visible[b][t]` lists media."""
    c = block.config
    heads, size = c.num_heads, c.head_dim
    keys, values = block.key_value.weight.view(2, heads, size, -1)
    queries, out = block.query.weight.view(heads, size, -1), block.out.weight.view(-1, heads, size)
    result = x.clone()
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            if not visible[b][t]:
                continue
            seen = torch.cat([latents[m] for m in visible[b][t]])
            q = norm(block.query_norm, torch.einsum("hsd,d->hs", queries, norm(block.attention_norm, x[b, t])))
            k, v = (torch.einsum("hsd,rd->hrs", w, seen) for w in (keys, values))
            k = norm(block.key_norm, k)
            weight = torch.softmax(torch.einsum("hs,hrs->hr", q, k) / math.sqrt(size), dim=-1)
            y = x[b, t] + block.attention_gate.tanh() * torch.einsum("hr,hrs,ohs->o", weight, v, out)
            result[b, t] = y + block.ffn_gate.tanh() * ffn(block, y)
    return result


def media_of(batch, mode):
    """The definition, token by token."""
    rows = []
    for b in range(batch.tokens.shape[0]):
        row = []
        for t in range(batch.tokens.shape[1]):
            last, document = int(batch.image_index[b, t]), int(batch.document[b, t])
            before = [m for m in range(last + 1) if batch.media_document[m].tolist() == [b, document]] if last >= 0 else []
            row.append(before[-1:] if mode == "last" else before)
        rows.append(row)
    return rows


def make(dim=32, latent_dim=24, **options):
    sizes = {"num_heads": 3, "head_dim": 8, "ffn_dim": 20, "gate_init": 0.5} | options
    block = GatedCrossAttention(FusionConfig(**sizes), dim, latent_dim)
    randomize(block)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if "norm" in name or name == "ffn.0.weight":
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("gate") and parameter.numel() > 1:
                parameter.normal_()
    return block


@pytest.fixture
def block():
    return make()


OPTIONS = [{}, {"query_key_norm": True}, {"gate": "channel", "activation": "relu"}, {"norm": "rms", "ffn": "gated"}, IDEFICS]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["last", "all"])
def test_block_equals_plain_einsum(mixed, options, mode):
    block = make(**options)
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    visible = media_of(mixed, mode)
    with torch.no_grad():
        block.ffn_gate.fill_(-0.8)
        keys = block.project_media(latents)
        y = block(x, keys, Sight.of(mixed, mode))
        torch.testing.assert_close(y, plain_block(block, x, latents, visible), atol=1e-5, rtol=1e-4)
    blind = torch.tensor([[not v for v in row] for row in visible])
    assert torch.equal(y[blind], x[blind])  # untouched, bit for bit
    assert blind.any() and (~blind).any()


def token_by_token(sight, batch):
    """What the rows' t-th tokens see, t = 0, 1, …, as in generation."""
    return [sight.after(torch.full((len(batch.tokens),), t)) for t in range(batch.tokens.shape[1])]


@pytest.mark.parametrize("mode", ["last", "all"])
def test_sight_is_the_definition(mixed, mode):
    visible = media_of(mixed, mode)
    for t, sight in enumerate(token_by_token(Sight.of(mixed, mode), mixed)):
        for b, row in enumerate(visible):
            assert bool(sight.sees[b, 0]) == bool(row[t])
            seen = sight.by.media[b] if sight.by.mask is None else sight.by.media[b][sight.by.mask[b, 0]]
            assert not row[t] or seen.tolist() == row[t]


@pytest.mark.parametrize("mode", ["last", "all"])
def test_attention_is_of_visible_media_only_and_sums_to_one(mixed, block, mode):
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    keys = block.project_media(latents)
    for t, sight in enumerate(token_by_token(Sight.of(mixed, mode), mixed)):
        weight = block.attention(x[:, t : t + 1], keys, sight)
        torch.testing.assert_close(weight.sum(dim=(2, 3)), torch.ones(len(x), 1))
        if sight.by.mask is not None:
            assert not weight[~sight.by.mask].any()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["last", "all"])
def test_one_token_a_row_is_as_among_all(mixed, options, mode):
    """By `step`, with keys and values gathered for each row, and rows in another order."""
    block, order = make(**options), torch.tensor([2, 0, 2])
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    with torch.no_grad():
        keys = block.project_media(latents)
        sight = Sight.of(mixed, mode)
        expected = block(x, keys, sight)
        for t, one in enumerate(token_by_token(sight, mixed)):
            rows = one.of_rows(order)
            gathered = tuple(rows.by.gather(m) for m in keys)
            y = block.step(x[order, t][:, None], gathered, rows)
            torch.testing.assert_close(y[:, 0], expected[order, t], atol=1e-5, rtol=1e-4)


def test_a_closed_gate_lets_its_sublayer_out_alone(mixed, block):
    x, latents = torch.randn(*mixed.tokens.shape, 32), torch.randn(mixed.num_media, 5, 24)
    sight = Sight.of(mixed)
    with torch.no_grad():
        block.attention_gate.zero_()
        a, b = (block(x, block.project_media(m), sight) for m in (latents, 2 * latents))
        assert torch.equal(a, b) and not torch.equal(a, x)
        block.ffn_gate.zero_()
        assert torch.equal(block(x, block.project_media(latents), sight), x)


def test_a_gated_feed_forward_is_the_decoders_with_one_expert():
    """So that weights go from one to the other: gate and up side by side in both."""
    block = make(**IDEFICS)
    decoder = dataclasses.replace(CONFIG.decoder, expert_dim=20, num_experts=1, top_k=1)
    expert = Experts(decoder, 1, 20)
    with torch.no_grad():
        expert.gate_up.copy_(block.ffn[1].weight.T)
        expert.down.copy_(block.ffn[3].weight.T)
        x = torch.randn(7, 32)
        torch.testing.assert_close(block.ffn[1:](x), expert(x, torch.zeros(7, dtype=torch.int64)))


def test_layers_may_be_listed_in_place_of_every_nth():
    model = build(change(fusion={"layers": (2, 0)}))
    assert list(model.fusion) == ["0", "2"]
    assert list(build(change(fusion={"layers": (1,)})).fusion) == ["1"]


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"fusion.layers names layer 3; there are 3, from 0"):
        change(fusion={"layers": (0, 3)})


def test_names_of_activations_are_those_of_the_configuration():
    from typing import get_args

    from vlm.config import Activation

    assert set(ACTIVATIONS) == set(get_args(Activation))


@pytest.mark.parametrize("options", [IDEFICS, {"sees": "all"}])
def test_without_resampler_packing_and_padding_change_nothing(processor, options):
    """The encoder's tokens stand where latents do (tests/vlm/test_invariances.py has the models with a resampler)."""
    config = change(fusion={**options, "pass_without_image": False}, decoder={"num_experts": 1, "top_k": 1})
    model = build(dataclasses.replace(config, resampler=None)).double()
    docs = [processor.encode(DOCUMENTS[i]) for i in (0, 1, 2, 3, 4, 6)]
    rows = [docs[:3], docs[3:], [docs[0]]]
    batch = processor.collate(rows, length=200)
    with torch.no_grad():
        packed = model(batch).logits
        for row, members in enumerate(rows):
            for number, doc in enumerate(members):
                alone = model(processor.collate([[doc]])).logits[0]
                torch.testing.assert_close(packed[row, batch.document[row] == number], alone, atol=1e-11, rtol=0)


def test_without_resampler_text_looks_at_the_encoders_tokens(processor):
    model = build(dataclasses.replace(CONFIG, resampler=None))
    batch = processor(DOCUMENTS[:5])
    with torch.no_grad():
        assert torch.equal(model.latents(batch), model.encoder(batch.images))
    assert not list(model.group("resampler").parameters())
    with pytest.raises(ValueError, match="takes single pictures, not 3 frames of 1 media"):
        model(processor([DOCUMENTS[5]]))
