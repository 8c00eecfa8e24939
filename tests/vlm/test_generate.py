"""Cached generation against recomputing everything for each token."""

import dataclasses

import numpy as np
import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import Sample, Text


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
    assert model.generate(batch, max_new_tokens=50, stop_ids=first).tokens == [[], []] and not calls


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
    with pytest.raises(ValueError, match="num_samples 3 cannot be streamed"):
        next(model.stream(processor(DOCUMENTS[:1]), num_samples=3, temperature=1.0))
    with pytest.raises(ValueError, match="num_beams 3 cannot be streamed"):
        next(model.stream(processor(DOCUMENTS[:1]), num_beams=3))


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


@pytest.mark.parametrize("options", [{"top_p": 1e-9, "temperature": 1.0}, {"temperature": 1e-4}])
def test_a_nucleus_or_temperature_near_zero_is_greedy(processor, model, options):
    batch = processor(DOCUMENTS)
    assert model.generate(batch, max_new_tokens=5, **options).tokens == model.generate(batch, max_new_tokens=5).tokens


def test_generation_works_under_autocast(processor, model):
    with torch.autocast("cpu", torch.bfloat16):
        assert [len(t) for t in model.generate(processor(DOCUMENTS), max_new_tokens=3).tokens] == [3] * len(DOCUMENTS)


def test_no_new_tokens(processor, model):
    assert model.generate(processor([Sample((Text("x"),))]), max_new_tokens=0).tokens == [[]]


def test_no_prompts_and_empty_prompts(processor, model):
    assert model.generate(processor([])).tokens == []
    with pytest.raises(ValueError, match="prompt of row 1 is empty"):
        model.generate(processor([Sample((Text("x"),)), Sample((), framed=False)]))


def test_how_a_row_ended_is_said(processor, model):
    batch = processor(DOCUMENTS)
    free = model.generate(batch, max_new_tokens=8)
    stop = free.tokens[0][3]
    out = model.generate(batch, max_new_tokens=8, stop_ids=[stop])
    assert out.finish == ["stop" if stop in t else "length" for t in free.tokens] and out.scores is None


def test_a_row_that_has_ended_costs_nothing_more(processor, model, monkeypatch):
    sizes, step = [], model.decode_step
    monkeypatch.setattr(model, "decode_step", lambda tokens, *rest: sizes.append(len(tokens)) or step(tokens, *rest))
    model.generate(processor(DOCUMENTS), max_new_tokens=6, ends=lambda tokens: tokens[0] % 2 == len(tokens) % 2)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < len(DOCUMENTS)


def test_ends_is_asked_for_every_token(processor, model):
    batch = processor(DOCUMENTS)
    free = model.generate(batch, max_new_tokens=8).tokens
    out = model.generate(batch, max_new_tokens=8, ends=lambda tokens: len(tokens) > 1 and sum(tokens) % 3 == 0)
    for tokens, all_tokens in zip(out.tokens, free, strict=True):
        ends = [n for n in range(2, 9) if sum(all_tokens[:n]) % 3 == 0]
        assert tokens == all_tokens[: min(ends, default=8)]


def test_score_is_the_logprob_of_each_label(processor, model):
    samples = [Sample((*d.segments, Text("given", learn=False), Text("learnt"))) for d in DOCUMENTS]
    batch = processor(samples)
    with torch.no_grad():
        table = model(batch).logits.log_softmax(-1)
    scores = model.score(batch)
    assert [len(s) for s in scores] == (batch.labels != -100).sum(1).tolist()
    for row, score in enumerate(scores):
        places = (batch.labels[row] != -100).nonzero()[:, 0]
        torch.testing.assert_close(score, table[row, places, batch.labels[row, places]], atol=1e-4, rtol=1e-4)


def test_score_of_what_was_generated_is_its_logprobs(processor):
    model = build().double()
    out = model.generate(processor(DOCUMENTS), max_new_tokens=5, temperature=1.0, seed=2)
    encoded = [processor.encode(document) for document in DOCUMENTS]
    whole = [
        dataclasses.replace(e, tokens=np.concatenate([e.tokens, t]), learn=np.arange(len(e) + len(t)) >= len(e))
        for e, t in zip(encoded, out.tokens, strict=True)
    ]
    for score, logprobs in zip(model.score(processor.collate([[w] for w in whole])), out.logprobs, strict=True):
        assert score.tolist() == pytest.approx(logprobs, abs=1e-9)


def test_a_decoder_alone_writes_as_the_model_without_pictures(processor, model):
    prompts = [Sample((Text("a first", learn=False),)), Sample((Text("b", learn=False),))]
    batch = processor(prompts)
    for options in ({}, {"num_beams": 3, "num_samples": 2}, {"temperature": 1.0, "num_samples": 2, "seed": 3}):
        alone = model.decoder.generate(batch, max_new_tokens=5, **options)
        assert alone == model.generate(batch, max_new_tokens=5, **options)
    streamed = model.decoder.stream(processor(prompts[:1]), max_new_tokens=5)
    assert [t for t, _ in streamed] == model.generate(batch, max_new_tokens=5).tokens[0]
    learnt = processor([Sample((Text("learnt"),))])
    torch.testing.assert_close(model.decoder.score(learnt), model.score(learnt))


def test_padding_on_the_left_is_refused(processor, model):
    batch = processor(DOCUMENTS[:2])
    document = batch.document.clone()
    document[0, 0] = -1
    with pytest.raises(ValueError, match="padded on the right"):
        model.generate(dataclasses.replace(batch, document=document))


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"num_beams": 2}])
def test_logits_that_are_not_finite_are_said(processor, options):
    model = build()
    torch.nn.init.constant_(model.decoder.norm.weight, float("nan"))
    with pytest.raises(ValueError, match="are not finite"):
        model.generate(processor(DOCUMENTS[:2]), **options)


def test_a_seed_may_be_numpys(processor, model):
    one, two = (
        model.generate(processor(DOCUMENTS), temperature=1.0, seed=seed, max_new_tokens=3).tokens for seed in (3, np.int64(3))
    )
    assert one == two
