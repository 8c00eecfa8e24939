"""Cached generation against recomputing everything for each token."""

import dataclasses

import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import Sample, Text
from vlm.generate import Sampling, choose


def recompute(model, processor, sample, steps):
    """Greedy, the whole document again for each token; the new tokens see what the last one saw."""
    batch = processor([sample])
    new, logprobs = [], []
    for _ in range(steps):
        with torch.no_grad():
            distribution = model(batch).logits[0, -1].log_softmax(-1)
        new.append(int(distribution.argmax()))
        logprobs.append(float(distribution.max()))

        def grow(t, value):
            return torch.cat((t, t.new_tensor([[value]])), dim=1)

        batch = dataclasses.replace(
            batch,
            tokens=grow(batch.tokens, new[-1]),
            labels=grow(batch.labels, -100),
            positions=grow(batch.positions, batch.tokens.shape[1]),
            document=grow(batch.document, 0),
            image_index=grow(batch.image_index, int(batch.image_index[0, -1])),
        )
    return new, logprobs


@pytest.mark.parametrize("fusion", [{}, {"sees": "all"}, {"pass_without_image": False}])
@pytest.mark.parametrize("samples", [DOCUMENTS, DOCUMENTS[:1], DOCUMENTS[1:2]])
def test_cached_greedy_equals_recomputation(processor, fusion, samples):
    model = build(change(fusion=fusion))
    out = model.generate(processor(samples), max_new_tokens=6)
    for row, sample in enumerate(samples):
        tokens, logprobs = recompute(model, processor, sample, 6)
        assert out.tokens[row] == tokens
        assert out.logprobs[row] == pytest.approx(logprobs, abs=1e-4)


def test_a_row_does_not_depend_on_the_rows_beside_it(processor, model):
    together = model.generate(processor(DOCUMENTS), max_new_tokens=5).tokens
    assert together == [model.generate(processor([d]), max_new_tokens=5).tokens[0] for d in DOCUMENTS]


def test_stop_ids_end_a_row_and_are_left_out(processor, model):
    batch = processor(DOCUMENTS)
    free = model.generate(batch, max_new_tokens=8)
    stop = free.tokens[0][3]
    cut = model.generate(batch, max_new_tokens=8, stop_ids=[stop])
    for full, short, logprobs in zip(free.tokens, cut.tokens, cut.logprobs, strict=True):
        assert short == (full[: full.index(stop)] if stop in full else full) and len(logprobs) == len(short)


def test_generation_ends_when_every_row_has_stopped(processor, model, monkeypatch):
    batch = processor(DOCUMENTS[:2])
    first = [t[0] for t in model.generate(batch, max_new_tokens=1).tokens]
    calls, step = [], model.decode_step
    monkeypatch.setattr(model, "decode_step", lambda *a: calls.append(1) or step(*a))
    assert model.generate(batch, max_new_tokens=50, stop_ids=first).tokens == [[], []] and len(calls) == 1


def test_images_are_encoded_once(processor, model, monkeypatch):
    calls, latents = [], model.latents
    monkeypatch.setattr(model, "latents", lambda batch: calls.append(1) or latents(batch))
    model.generate(processor(DOCUMENTS), max_new_tokens=4)
    assert len(calls) == 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_stream_equals_generate(processor, model, document):
    batch = processor([document])
    free = model.generate(batch, max_new_tokens=6).tokens[0]
    for options in ({}, {"stop_ids": [free[4]]}, {"temperature": 0.9, "seed": 3}):
        whole = model.generate(batch, max_new_tokens=6, **options)
        streamed = list(model.stream(batch, max_new_tokens=6, **options))
        assert [t for t, _ in streamed] == whole.tokens[0]
        assert [p for _, p in streamed] == pytest.approx(whole.logprobs[0])


def test_stream_takes_one_prompt(processor, model):
    with pytest.raises(ValueError, match="one prompt, not 2"):
        next(model.stream(processor(DOCUMENTS[:2])))


def test_generation_refuses_packed_rows(model, mixed):
    with pytest.raises(ValueError, match="one document a row"):
        model.generate(mixed)


def test_sampling_is_a_function_of_its_seed(processor, model):
    batch = processor(DOCUMENTS)
    one, again, other = (model.generate(batch, max_new_tokens=8, temperature=1.0, seed=s).tokens for s in (1, 1, 2))
    assert one == again != other


def test_sampled_logprobs_are_the_models_at_temperature_one(processor, model):
    out = model.generate(processor(DOCUMENTS[:1]), max_new_tokens=5, temperature=3.0, seed=0)
    start = processor(DOCUMENTS[:1]).tokens[0]
    with torch.no_grad():
        logits = model.decoder(torch.cat((start, torch.tensor(out.tokens[0])))[None])[0].log_softmax(-1)
    expected = [float(logits[len(start) - 1 + i, t]) for i, t in enumerate(out.tokens[0])]
    assert out.logprobs[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [{"top_p": 1e-9, "temperature": 1.0}, {"temperature": 1e-9}])
def test_a_nucleus_or_temperature_near_zero_is_greedy(processor, model, options):
    batch = processor(DOCUMENTS)
    assert model.generate(batch, max_new_tokens=5, **options).tokens == model.generate(batch, max_new_tokens=5).tokens


def test_sampling_draws_from_the_smallest_set_that_holds_top_p():
    logprobs = torch.tensor([0.1, 0.5, 0.3, 0.1]).log().expand(4000, 4)
    drawn = choose(logprobs, Sampling(temperature=1.0, top_p=0.7), torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([0, 0.625, 0.375, 0]), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "options", [{"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}, {"temperature": float("nan")}, {"max_new_tokens": -1}]
)
def test_impossible_sampling_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**options)


def test_generation_works_under_autocast(processor, model):
    with torch.autocast("cpu", torch.bfloat16):
        assert [len(t) for t in model.generate(processor(DOCUMENTS), max_new_tokens=3).tokens] == [3] * len(DOCUMENTS)


def test_no_new_tokens(processor, model):
    assert model.generate(processor([Sample((Text("x"),))]), max_new_tokens=0).tokens == [[]]
