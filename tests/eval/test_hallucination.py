"""Signals, labels and detectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.hallucination import DETECTORS, TokenSignals, judge_detectors, label_tokens, read_signals
from eval.hallucination.marking import Marking, word_doubts
from eval.hallucination.signals import token_spans
from eval.prompting import Prompter
from vlm.sample import Sample


def signals_of(logprob, logprob_text=None, text: str | None = None) -> TokenSignals:
    n = len(logprob)
    text = text or "a" * n
    other = np.zeros(n) if logprob_text is None else np.array(logprob_text, dtype=float)
    spans = tuple((i, i + 1) for i in range(n))
    return TokenSignals(text, tuple(range(n)), spans, np.array(logprob, dtype=float), other)


def test_logprobs_are_those_of_generation(model_and_processor, items):
    model, processor = model_and_processor
    prompts = [Prompter().ask(item) for item in items[:9]]
    generated = model.generate(processor(prompts), max_new_tokens=5)
    for signals, tokens, logprobs in zip(
        read_signals(model, processor, prompts, generated.tokens, batch_size=4),
        generated.tokens,
        generated.logprobs,
        strict=True,
    ):
        assert signals.tokens == tuple(tokens)
        np.testing.assert_allclose(signals.logprob, logprobs, atol=1e-4)
        assert np.isfinite(signals.pmi).all()


def test_without_a_picture_nothing_is_owed_to_it(model_and_processor, items):
    model, processor = model_and_processor
    prompt = Prompter().ask(items[0])
    text_only = Sample(prompt.segments[1:])
    seen, blind = read_signals(model, processor, [prompt, text_only], [[70, 71, 72]] * 2)
    assert np.abs(seen.pmi).max() > 1e-3
    np.testing.assert_allclose(blind.pmi, 0, atol=1e-6)


@given(text=st.text(max_size=30))
def test_spans_cover_the_text_in_order(model_and_processor, text):
    _, processor = model_and_processor
    decoded, spans = token_spans(processor, processor.tokenize(text))
    assert decoded == text
    assert "".join(text[a:b] for a, b in spans) == text


def test_tokens_take_the_verdict_of_the_span_that_holds_them():
    spans = [(0, 3), (3, 5), (5, 6), (6, 8)]  # "red| 7|;| b"
    assert label_tokens(spans, "red 7; b", [(0, 3, True), (4, 5, False)]) == [False, True, None, None]
    assert label_tokens([(0, 5)], "12 13", [(0, 2, True), (3, 5, False)]) == [True]  # one token over both: wrong wins
    assert label_tokens([(0, 2)], "a ", [(1, 2, False)]) == [None]  # only a blank of it


def test_detectors_follow_their_signal():
    signals = signals_of([-0.1, -3.0], [-2.0, -3.0])
    for detector in DETECTORS.values():
        doubt = detector(signals)
        assert doubt.shape == (2,) and doubt[1] > doubt[0]


def planted(n: int = 200, seed: int = 0):
    """Texts whose wrong tokens are less probable, and no later than others."""
    rng = np.random.default_rng(seed)
    labels = [[bool(x) for x in rng.random(10) < 0.2] for _ in range(n)]
    signals = [signals_of(-rng.exponential(0.5, 10) - 3 * np.array(row), rng.normal(-2, 1, 10)) for row in labels]
    return signals, labels, [str(i) for i in range(n)]


def test_planted_errors_are_found_and_position_is_chance():
    summary = judge_detectors(*planted())
    assert summary["auroc"]["logprob"]["value"] > 0.95 > 0.55 > abs(summary["auroc"]["position"]["value"])
    low, high = summary["auroc"]["logprob"]["interval"]
    assert low < summary["auroc"]["logprob"]["value"] < high
    assert summary["base_rate"]["value"] == pytest.approx(0.2, abs=0.03) and summary["base_rate"]["n"] == 2000
    assert summary["detector"] == "logprob"
    assert summary["recall"]["value"] > 0.8 and summary["precision"]["value"] > 0.6


def test_false_alarms_are_bounded():
    signals, labels, groups = planted()
    summary = judge_detectors(signals, labels, groups)
    detector = DETECTORS[summary["detector"]]
    alarms = [
        d > summary["threshold"]
        for s, row in zip(signals, labels, strict=True)
        for d, w in zip(detector(s), row, strict=True)
        if not w
    ]
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("label", [True, False, None])
def test_one_class_alone_gives_no_auroc_and_no_marking(label):
    signals, _, groups = planted(5)
    summary = judge_detectors(signals, [[label] * 10] * 5, groups)
    assert summary["auroc"]["pmi"]["value"] is None and summary["detector"] is None
    assert Marking.of(summary) is None


def test_judging_is_deterministic():
    assert judge_detectors(*planted(30)) == judge_detectors(*planted(30))


def test_marking_is_read_from_the_run(tmp_path):
    assert Marking.load(tmp_path) is None
    folder = tmp_path / "eval" / "charts"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"hallucination": {"detector": "pmi", "threshold": 1.5}}))
    for checkpoint in (tmp_path, tmp_path / "model"):
        marking = Marking.load(checkpoint)
        assert (marking.detector.name, marking.threshold) == ("pmi", 1.5)
    assert marking.doubtful(" red", 2.0) and not marking.doubtful(" red", 1.0) and not marking.doubtful(";", 9.0)


def test_a_word_is_as_doubtful_as_its_worst_token():
    words = word_doubts("red 12; b", [(0, 3), (3, 5), (5, 6), (6, 7), (7, 9)], np.array([0.0, 1.0, 5.0, 2.0, 3.0]))
    assert words == [("red", 0.0), (" 12;", 5.0), (" b", 3.0)]
