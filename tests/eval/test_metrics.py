"""The metrics against the official scorers' own results."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eval import metrics

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found: set VLM_DATA")


def cases() -> list[dict]:
    path = DATA / "conformance" / "relaxed_accuracy.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row for row in rows if row["metric"].startswith("relaxed_accuracy") and "pix2struct" in row["impl"]]


@needs_data
def test_relaxed_accuracy_is_the_official_one_case_by_case():
    metric = metrics.get("relaxed_accuracy:pix2struct")
    rows = cases()
    wrong = [row for row in rows if metric.score(row["prediction"], row["references"], row) != row["official_score"]]
    assert len(rows) == 56 and not wrong


@needs_data
def test_published_chartqa_figure_is_reproduced():
    rows = json.loads((DATA / "predictions" / "chartqa_chartast.json").read_text())
    metric = metrics.get("relaxed_accuracy")
    scores = {
        part: [metric.score(r["prediction"], [r["label"]], r) for r in rows if r["split"] == part]
        for part in ("human", "augmented")
    }
    means = {part: round(100 * sum(values) / len(values), 2) for part, values in scores.items()}
    assert means == {"human": 66.24, "augmented": 93.52}
    assert round(100 * sum(map(sum, scores.values())) / len(rows), 2) == 79.88


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
