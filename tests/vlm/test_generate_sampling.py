"""Filters against transformers', the draw against its distribution, and what a seed promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_fakes import DOCUMENTS, build

from vlm import Sample, Text
from vlm.sampling import Sampling, draw, narrow, penalize, seen_tokens


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 1000},
        {"top_p": 0.8},
        {"top_p": 1e-9},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"temperature": 1.7, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3},
        {"temperature": 0.3, "top_p": 0.5, "min_p": 0.3, "repetition_penalty": 0.6},
    ],
)
def test_filters_are_those_of_transformers(options, seed):
    p = pytest.importorskip("transformers").generation.logits_process
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(7, 100, generator=generator)
    logits = (logits * 4).round() / 4 if seed % 2 else logits  # with ties
    tokens = torch.randint(0, 100, (7, 30), generator=generator)
    chain = [
        ("repetition_penalty", p.RepetitionPenaltyLogitsProcessor),
        ("temperature", p.TemperatureLogitsWarper),
        ("top_k", p.TopKLogitsWarper),
        ("top_p", p.TopPLogitsWarper),
        ("min_p", p.MinPLogitsWarper),
    ]
    theirs = logits
    for name, processor in chain:
        theirs = processor(options[name])(tokens, theirs) if name in options else theirs
    sampling = Sampling(**{"temperature": 1.0, **options})
    seen = seen_tokens(tokens, torch.ones_like(tokens, dtype=torch.bool), 100)
    torch.testing.assert_close(narrow(penalize(logits, seen, sampling.repetition_penalty), sampling), theirs)


def test_padding_is_not_penalized():
    seen = seen_tokens(torch.tensor([[3, 0, 0], [1, 2, 1]]), torch.tensor([[True, False, False], [True, True, True]]), 4)
    assert seen.tolist() == [[False, False, False, True], [False, True, True, False]]


def test_a_penalty_counts_the_prompt_and_what_was_written(processor, model):
    """So high a penalty leaves nothing to be said twice."""
    batch = processor(DOCUMENTS)
    out = model.generate(batch, max_new_tokens=30, repetition_penalty=1e6)
    for row, tokens in enumerate(out.tokens):
        prompt = batch.tokens[row, : batch.lengths[row]].tolist()
        assert len({*tokens}) == 30 and not {*tokens} & {*prompt}
        alone = model.generate(processor([DOCUMENTS[row]]), max_new_tokens=30, repetition_penalty=1e6)
        assert alone.tokens == [tokens]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_a_draw_falls_into_its_tokens_share(weights, uniform):
    logits = torch.tensor([[math.log(w) if w else -math.inf for w in [*weights, 1]]])
    token = int(draw(logits, torch.tensor([uniform], dtype=torch.float64)))
    ends = np.cumsum([*weights, 1]) / (sum(weights) + 1)
    assert [*weights, 1][token] > 0
    assert (ends[token - 1] if token else 0) - 1e-6 <= uniform <= ends[token] + 1e-6


@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1, 0)])
def test_a_token_that_is_left_out_is_never_drawn(uniform):
    logits = torch.full((1, 1000), -math.inf)
    logits[0, 400:403] = torch.tensor([0.3, 0.1, -2.0])
    drawn = int(draw(logits, torch.tensor([uniform], dtype=torch.float64)))
    assert drawn == (400 if uniform == 0 else 402)


def test_samples_follow_the_models_distribution(processor, model):
    batch, n = processor(DOCUMENTS[1:2]), 4000
    with torch.no_grad():
        expected = model(batch).logits[0, -1].softmax(-1)
    out = model.generate(batch, max_new_tokens=1, temperature=1.0, num_samples=n)
    share = torch.bincount(torch.tensor(out.tokens)[:, 0], minlength=len(expected)) / n
    assert float((share - expected).abs().max()) < 4 * 0.5 / n**0.5
    assert float((share - expected).abs().sum()) < 0.3


DRAWING = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.95}


def test_a_sample_is_the_same_in_any_batch_and_at_any_place(processor):
    model = build().double()
    together = model.generate(processor(DOCUMENTS), seed=5, num_samples=3, **DRAWING).tokens
    for row, document in enumerate(DOCUMENTS):
        assert model.generate(processor([document]), seed=5, num_samples=3, **DRAWING).tokens == together[3 * row : 3 * row + 3]
    backwards = model.generate(processor(DOCUMENTS[::-1]), seed=5, num_samples=1, **DRAWING).tokens
    assert backwards[::-1] == together[::3], "the first sample is the same however many there are"


def test_a_row_is_the_same_though_others_end_before_it(processor):
    model = build().double()
    free = model.generate(processor(DOCUMENTS), seed=1, **DRAWING).tokens
    stop = free[2][2]
    cut = model.generate(processor(DOCUMENTS), seed=1, stop_ids=[stop], **DRAWING).tokens
    assert cut == [t[: t.index(stop)] if stop in t else t for t in free]
    assert min(map(len, cut)) < 8


def test_each_prompt_can_have_its_seed(processor, model):
    batch = processor([DOCUMENTS[1]] * 4)
    one, two, again, other = model.generate(batch, seed=[1, 2, 1, 3], **DRAWING).tokens
    assert one == again and len({tuple(t) for t in (one, two, other)}) == 3
    with pytest.raises(ValueError, match="2 seeds for 4 prompts"):
        model.generate(batch, seed=[1, 2], **DRAWING)


def test_samples_of_one_prompt_differ_and_read_it_once(processor, model, monkeypatch):
    rows, read = [], model.read_prompts
    monkeypatch.setattr(model, "read_prompts", lambda batch, cache: rows.append(len(batch.tokens)) or read(batch, cache))
    projected, project = [], model.media_keys
    monkeypatch.setattr(model, "media_keys", lambda latents: projected.append(len(latents)) or project(latents))
    out = model.generate(processor(DOCUMENTS[1:3]), num_samples=5, **DRAWING)
    assert rows == [2] and projected == [2]
    assert len({tuple(t) for t in out.tokens[:5]}) == len({tuple(t) for t in out.tokens[5:]}) == 5


def test_drawing_does_not_touch_the_global_generators(processor, model):
    before = torch.get_rng_state()
    model.generate(processor([Sample((Text("x"),))]), **DRAWING)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"max_new_tokens": -1}, "max_new_tokens -1"),
        ({"top_k": -1}, "top_k -1"),
        ({"min_p": 1.5}, "min_p 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"num_beams": 0}, "num_beams 0"),
        ({"length_penalty": math.inf, "num_beams": 2}, "length_penalty inf"),
        ({"seed": -3}, "seed -3"),
        ({"seed": [1, -3]}, "seed -3"),
        ({"seed": 1.5}, "seed 1.5 is not a sequence of whole numbers"),
        ({"seed": [1.5]}, "seed 1.5 is not a whole number"),
        ({"max_new_tokens": 2.5}, "max_new_tokens 2.5 is not a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens True is not a whole number"),
        ({"temperature": None}, "temperature None is not a number"),
        ({"stop_ids": 5}, "stop_ids 5 is not a sequence of whole numbers"),
        ({"stop_ids": ("a",)}, "stop_ids a is not a whole number"),
        ({"num_beams": 2, "temperature": 1.0}, "temperature 1.0 does not go with num_beams 2"),
        ({"num_beams": 2, "num_samples": 3}, "num_samples 3 is more than num_beams 2"),
        ({"num_samples": 3}, "num_samples 3 at temperature 0"),
        ({"length_penalty": 2.0}, "length_penalty 2.0 needs num_beams"),
        ({"top_k": 3}, "top_k 3 needs a temperature"),
        ({"num_beams": 2, "top_p": 0.5}, "top_p 0.5 needs a temperature"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Sampling(**options)
    assert "\n" not in str(error.value)
