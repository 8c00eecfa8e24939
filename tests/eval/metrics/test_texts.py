"""Rationales and captions."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

from eval import metrics


def rationale(prediction: str, reference: str) -> dict:
    return metrics.get("rationale").score(prediction, [reference], {})


def test_figures_that_the_original_packages_give():
    found = rationale("a b c", "a c")
    assert found == pytest.approx({"bleu1": 2 / 3, "bleu4": 0.0, "rougeL": 0.8})
    assert rationale("a", "a b")["bleu4"] == pytest.approx(0.0) and rationale("a", "a b")["bleu4"] > 0  # 1e-232, not 0
    assert rationale("b c a", "a. b c.")["rougeL"] == pytest.approx(1)  # sentence by sentence, distinct words
    same = "the cat sat on the mat. it slept"
    assert rationale(same, same) == pytest.approx({"bleu1": 1, "bleu4": 1, "rougeL": 1})


@pytest.mark.parametrize(("prediction", "reference"), [("", "a"), ("a", ""), ("...", "a"), (" ", "."), ("x", "y")])
def test_nothing_in_common(prediction, reference):
    assert rationale(prediction, reference) == {"bleu1": 0, "bleu4": 0, "rougeL": 0}


def test_a_runaway_rationale_takes_bounded_time():
    assert rationale("w " * 100_000, "w v " * 50_000)["rougeL"] == pytest.approx(2 / 3)


CAPTIONS = [
    {"prediction": "a man rides a horse", "references": ["a man riding a horse", "a person on a horse"]},
    {"prediction": "dogs play (in the) snow!!!", "references": ["two dogs playing in snow"]},
    {"prediction": "", "references": ["a plate of broccoli, rice"]},
]


def test_captions_need_java(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="caption needs Java"):
        metrics.get("caption").score_corpus(CAPTIONS)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None or find_spec("pycocoevalcap") is None, reason="Java or pycocoevalcap not found"
)
def test_captions_as_the_official_server_scores_them():
    metric = metrics.get("caption")
    rows = [{**row, "score": score} for row, score in zip(CAPTIONS, metric.score_corpus(CAPTIONS), strict=True)]
    assert rows[1]["score"]["tokens"]["prediction"] == "dogs play -lrb- in the -rrb- snow !!!"
    assert rows[2]["score"]["tokens"]["references"] == ["a plate of broccoli rice"]
    assert rows[0]["score"]["CIDEr"] > rows[1]["score"]["CIDEr"] > rows[2]["score"]["CIDEr"] == 0
    found = metric.summarize(rows)
    assert list(found) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr"]
    assert found["BLEU-1"]["value"] != pytest.approx(sum(row["score"]["BLEU-1"] for row in rows) / 3)
