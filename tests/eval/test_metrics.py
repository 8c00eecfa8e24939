"""The registry of metrics, and the edges of the two that need no option."""

from __future__ import annotations

import pytest

from eval import metrics


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [("105", "100", 1), ("105.2", "100", 0), ("0.0", "0", 0), ("0.5", "50%", 1), ("50", "50%", 0), ("abc ", "abc", 0),
     ("YES", "yes", 1), ("nan", "nan", 0), ("$100", "100", 0), ("2011", "2010", 1), ("", "", 1)],
)  # fmt: skip
def test_edges_of_relaxed_accuracy(prediction, reference, score):
    assert metrics.get("relaxed_accuracy").score(prediction, [reference], {}) == score


def test_best_reference_counts():
    assert metrics.get("relaxed_accuracy").score("50", ["50%", "50"], {}) == 1


def test_exact_match_variants_differ_in_case_and_blanks_only():
    assert metrics.get("exact_match").label == "exact_match:ignore_case"
    assert metrics.get("exact_match").score(" Red ", ["red"], {}) == 1
    assert metrics.get("exact_match:strict").score("Red", ["red"], {}) == 0


@pytest.mark.parametrize("label", ["relaxed_acuracy", "relaxed_accuracy:pix2strict", "relaxed_accuracy:"])
def test_unknown_metric_or_variant_names_the_nearest(label):
    with pytest.raises(ValueError, match=r"relaxed_accuracy|pix2struct"):
        metrics.get(label)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_every_variant_scores_rows_or_a_corpus_and_says_its_label(name):
    for variant, parts in metrics.METRICS[name].items():
        assert metrics.get(f"{name}:{variant}").label == f"{name}:{variant}"
        assert (parts.score is None) != (parts.score_corpus is None)
    assert metrics.get(name).variant == next(iter(metrics.METRICS[name]))


@pytest.mark.parametrize(("references", "right"), [("B", True), (["A", "B"], True), ("A", False), (None, False)])
def test_a_parsed_answer_is_right_when_it_is_a_reference(references, right):
    metric = metrics.Metric("letter", "any", metrics.Variant(lambda p, r, o: p, parses=True))
    assert metric.correct("B", {"references": references}) is right
    assert metric.correct(None, {"references": references}) is False
    assert list(metric.guesses({"choices": {"A": "x", "B": "y"}})) == ["A", "B"]
    assert list(metric.guesses({"choices": ["x", "y", "z"]})) == ["A", "B", "C"]
