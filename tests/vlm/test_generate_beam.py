"""Beam search against an exhaustive search, and against transformers'."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change, grown, randomize

from vlm import Batch, DecoderConfig, Sample, Text, TextDecoder
from vlm.batch import IGNORE
from vlm.beam import beam_search
from vlm.sampling import Sampling

SHORT = tuple(Sample((*d.segments[:2], Text("xy", learn=False))) for d in DOCUMENTS[1:5:3])
VOCABULARY, STOP = 5, 3


def tiny_batch(processor, samples):
    """The samples with ids below 5; each row keeps its own length and media."""
    batch = processor(samples)
    return dataclasses.replace(batch, tokens=batch.tokens % VOCABULARY, labels=torch.full_like(batch.labels, IGNORE))


@pytest.fixture
def tiny():
    return build(change(decoder={"vocab_size": VOCABULARY})).double()


@torch.no_grad()
def exhaustive(model, processor, sample, steps, length_penalty):
    """Every text there is, as (score, tokens, does it end with the stop token), best first."""
    found = []
    for length in range(1, steps + 1):
        texts = [t for t in itertools.product(range(VOCABULARY), repeat=length) if STOP not in t[:-1]]
        texts = [t for t in texts if t[-1] == STOP or length == steps]
        batch = tiny_batch(processor, [sample] * len(texts))
        total, rows = torch.zeros(len(texts), dtype=torch.float64), torch.arange(len(texts))
        for column in torch.tensor(texts).T:
            logprobs = model(batch).logits[rows, batch.lengths - 1].log_softmax(dim=-1)
            total += logprobs[rows, column]
            batch = grown(batch, column)
        found += [(score / length**length_penalty, t, t[-1] == STOP) for score, t in zip(total.tolist(), texts, strict=True)]
    return sorted(found, key=lambda f: -f[0])


@pytest.mark.parametrize("length_penalty", [1.0, 2.5, -1.0])
def test_wide_beams_are_an_exhaustive_search(processor, tiny, length_penalty):
    steps, best = 4, 40
    options = {"num_beams": 400, "num_samples": best, "length_penalty": length_penalty}
    out = tiny.generate(tiny_batch(processor, SHORT), max_new_tokens=steps, stop_ids=[STOP], **options)
    for row, sample in enumerate(SHORT):
        expected = exhaustive(tiny, processor, sample, steps, length_penalty)[:best]
        here = slice(row * best, (row + 1) * best)
        assert out.scores[here] == pytest.approx([score for score, _, _ in expected], rel=1e-9)
        assert out.tokens[here] == [list(t[: len(t) - stopped]) for _, t, stopped in expected]
        assert out.finish[here] == ["stop" if stopped else "length" for _, _, stopped in expected]


def test_more_beams_find_no_worse_texts(processor, tiny):
    """Not so in general, but against beams enough for every beginning."""
    batch = tiny_batch(processor, SHORT)
    options = {"max_new_tokens": 5, "stop_ids": [STOP], "length_penalty": 1.0}
    scores = [tiny.generate(batch, num_beams=beams, **options).scores for beams in (2, 8, 600)]
    assert all(wide >= narrow - 1e-12 for narrow, wide in zip(scores[0], scores[2], strict=True))
    assert all(wide >= middle - 1e-12 for middle, wide in zip(scores[1], scores[2], strict=True))


def test_scores_and_logprobs_belong_together(processor, model):
    out = model.generate(processor(DOCUMENTS), max_new_tokens=6, num_beams=3, num_samples=2, length_penalty=0.5)
    assert len(out.tokens) == 2 * len(DOCUMENTS)
    for tokens, logprobs, score in zip(out.tokens, out.logprobs, out.scores, strict=True):
        assert score == pytest.approx(sum(logprobs) / len(tokens) ** 0.5, abs=1e-4)
    for first, second in zip(out.scores[::2], out.scores[1::2], strict=True):
        assert first >= second


def test_beams_do_not_depend_on_the_rows_beside_them(processor):
    model, options = build().double(), {"max_new_tokens": 6, "num_beams": 4, "num_samples": 2, "stop_ids": range(4, 90)}
    together = model.generate(processor(DOCUMENTS), **options)
    for row, document in enumerate(DOCUMENTS):
        alone = model.generate(processor([document]), **options)
        assert alone.tokens == together.tokens[2 * row : 2 * row + 2]
        assert alone.scores == pytest.approx(together.scores[2 * row : 2 * row + 2])


def test_a_stop_string_ends_a_beam(processor, model):
    """`ends` is asked for each candidate."""
    out = model.generate(processor(DOCUMENTS), ends=lambda tokens: sum(tokens) % 7 == 0, max_new_tokens=8, num_beams=3)
    for tokens, finish in zip(out.tokens, out.finish, strict=True):
        assert (sum(tokens) % 7 == 0) == (finish == "stop") or len(tokens) == 8
        assert all(sum(tokens[:n]) % 7 for n in range(1, len(tokens)))


def test_fewer_texts_than_asked_for_is_said(processor, tiny):
    with pytest.raises(ValueError, match="num_samples 6: row 0 has only 5 different texts"):
        tiny.generate(tiny_batch(processor, SHORT), max_new_tokens=1, num_beams=6, num_samples=6)


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_to_do(processor, model, steps):
    options = Sampling(num_beams=2, max_new_tokens=steps)
    assert beam_search(model, processor([]), options).tokens == []
    assert len(beam_search(model, processor(DOCUMENTS), options).tokens[0]) == steps


@pytest.mark.parametrize(("beams", "penalty", "repetition"), [(2, 1.0, 1.0), (4, 0.0, 1.0), (5, 2.0, 1.3), (3, -1.0, 1.0)])
def test_the_same_as_transformers(beams, penalty, repetition):
    transformers = pytest.importorskip("transformers")
    model, peer = llamas(transformers)
    prompts, stop = torch.randint(3, 40, (4, 6)), [1, 2]
    for row in prompts:
        theirs = peer.generate(
            row[None],
            attention_mask=torch.ones(1, 6, dtype=torch.int64),
            max_new_tokens=9,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=penalty,
            repetition_penalty=repetition,
            early_stopping="never",
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        ours = model.generate(
            text_batch(row),
            max_new_tokens=9,
            num_beams=beams,
            num_samples=beams,
            length_penalty=penalty,
            repetition_penalty=repetition,
            stop_ids=stop,
        )
        assert ours.scores == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-5)
        texts = [[t for t in text if t not in (0, *stop)] for text in theirs.sequences[:, 6:].tolist()]
        assert [[t for t in text if t] for text in ours.tokens] == texts


def llamas(transformers):
    """The same random weights twice, float64: logits peaked enough that beams differ, stop tokens likely."""
    shape = {"num_heads": 4, "num_kv_heads": 2, "num_experts": 1, "top_k": 1, "expert_dim": 20}
    model = TextDecoder(DecoderConfig(vocab_size=40, dim=32, num_layers=2, **shape))
    randomize(model)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=None,
    )
    peer = transformers.LlamaForCausalLM(config)
    weights = {"model.embed_tokens.weight": model.embedding.weight, "lm_head.weight": model.embedding.weight}
    weights["model.norm.weight"] = model.norm.weight
    for i, layer in enumerate(model.layers):
        here, gate_up = f"model.layers.{i}.", layer.moe.experts.gate_up[0].T.chunk(2)
        weights[here + "input_layernorm.weight"] = layer.attention_norm.weight
        weights[here + "post_attention_layernorm.weight"] = layer.moe_norm.weight
        weights[here + "mlp.gate_proj.weight"], weights[here + "mlp.up_proj.weight"] = gate_up
        weights[here + "mlp.down_proj.weight"] = layer.moe.experts.down[0].T
        for theirs, ours in zip("qkvo", ("query", "key", "value", "out"), strict=True):
            weights[f"{here}self_attn.{theirs}_proj.weight"] = getattr(layer.attention, ours).weight
    peer.load_state_dict({name: t.detach().contiguous() for name, t in weights.items()})
    return model.double().eval(), peer.double().eval()


def text_batch(tokens) -> Batch:
    """One prompt without images."""
    tokens, none = tokens[None], torch.zeros(0, dtype=torch.int64)
    zeros = torch.zeros_like(tokens)
    positions = torch.arange(tokens.shape[1])[None]
    images = torch.zeros(0, 3, 16, 16, dtype=torch.uint8)
    return Batch(tokens, zeros - 100, positions, zeros, zeros - 1, none.reshape(0, 2), images, none, none.float())


def test_texts_that_end_leave_room_for_those_that_go_on(processor, model):
    """Ended by `ends` or by as many stop ids: the same search."""
    stops = set(range(4, 250))
    options = {"num_beams": 2, "length_penalty": 3.0, "max_new_tokens": 4}
    by_ids = model.generate(processor(SHORT), stop_ids=sorted(stops), **options)
    by_hook = model.generate(processor(SHORT), ends=lambda tokens: tokens[-1] in stops, **options)
    assert by_hook.scores == pytest.approx(by_ids.scores)
