"""Chart → table: the official cases, quirks, and tables too large for a naive matcher."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import metrics
from eval.metrics import chart_table

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found: set VLM_DATA")
GOLD = "title | my table\nyear | argentina | brazil\n1999 | 200 | 158\n"


def score(variant: str, prediction: str, *references: str):
    return metrics.get(f"chart_table:{variant}").score(prediction, references, {})


@needs_data
def test_every_official_case():
    cases = [json.loads(line) for line in (DATA / "conformance/chart_to_table.jsonl").read_text().splitlines()]
    for case in cases:
        for variant, key, prefix in (("rms", "official_score", "table_datapoints_"), ("row", "row_metric", "row_datapoints_")):
            wanted = {name.removeprefix(prefix): value / 100 for name, value in case[key].items() if name.startswith(prefix)}
            assert score(variant, case["prediction"], *case["references"]) == pytest.approx(wanted, abs=1e-12), case["id"]
        wanted = case["official_score"]["numbers_match"] / 100
        assert score("rnss", case["prediction"], *case["references"]) == pytest.approx(wanted, abs=1e-12), case["id"]
    assert len(cases) >= 10


def test_a_transposed_prediction_is_as_good():
    turned = "title | my table\ncountry | 1999\nargentina | 200\nbrazil | 158\n"
    assert score("rms", turned, GOLD) == score("rms", GOLD, turned) == {"precision": 1, "recall": 1, "f1": 1}


@pytest.mark.parametrize(
    ("value", "wanted"), [("219", 0.905), ("220", 0.0), ("180", 0.0), ("200%", 0.0), ("nan", 0.0), ("inf", 0.0), ("2e2", 1.0)]
)
def test_a_number_may_be_off_by_less_than_a_tenth(value, wanted):
    found = score("rms", f"a | b\nx | {value}", "a | b\nx | 200")
    assert found["f1"] == pytest.approx(wanted)


def test_quirks_of_zero_percent_and_nothing():
    assert score("rnss", "0", "0") == 0 and score("rnss", "5", "0") == 1  # inverted in the original
    assert score("rnss", "5% | 7", "7") == 1  # "5%" is no number here
    assert score("rms", "a | b\nx | 0", "a | b\nx | 0")["f1"] == 1
    assert score("rms", "a | b\nx | 5%", "a | b\nx | 0.05")["f1"] == 1
    assert score("rms", "", GOLD) == {"precision": 1, "recall": 0, "f1": 0}
    assert score("rms", GOLD, "") == {"precision": 0, "recall": 1, "f1": 0}
    assert score("rms", "", "") == {"precision": 1, "recall": 1, "f1": 1} == score("row", "", "")


def test_ragged_rows_and_the_best_reference():
    assert score("rms", "a | b\nx | 1 | 2 | 3\n\ny", "a | b\nx | 1")["f1"] == 1
    assert score("rms", "a | b\nx | 1", GOLD, "a | b\nx | 1")["f1"] == 1
    assert score("row", "b | a\n2 | 1", "a | b\n1 | 2")["f1"] == 1


def big(word: str, side: int) -> str:
    rows = (f"{word} {i} | " + " | ".join(str(i * j + 1) for j in range(side)) for i in range(side))
    return "year | " + " | ".join(str(1900 + j) for j in range(side)) + "\n" + "\n".join(rows)


def test_pairing_equal_names_first_changes_no_score(monkeypatch):
    found, gold = big("country", 7).replace("1903", "1993").replace("country 3", "land 3"), big("country", 7)
    dense = score("rms", found, gold)
    monkeypatch.setattr(chart_table, "DENSE", 0)
    assert score("rms", found, gold) == pytest.approx(dense)
    assert 0.7 < dense["f1"] < 1


def test_ten_thousand_cells():
    wanted = big("country", 100)
    assert score("rms", wanted, wanted)["f1"] == 1
    assert score("rnss", big("country", 40), big("country", 40)) == 1


def test_tables_past_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(chart_table, "LIMIT", 100)
    monkeypatch.setattr(chart_table, "DENSE", 50)
    with pytest.raises(ValueError, match=r"too large to match: 2,401 pairs"):
        score("rms", big("land", 7), big("country", 7))
    with pytest.raises(ValueError, match="too large"):
        score("rnss", big("land", 7), big("country", 7))


CELL = st.sampled_from(["", "a", "b", "x y", "0", "1", "5%", "1,000", "nan", "-inf", "title", "é", "1999"])
TABLES = st.lists(st.lists(CELL, max_size=5).map(" | ".join), max_size=5).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(TABLES, TABLES)
def test_any_two_tables_have_scores_between_0_and_1(prediction, reference):
    for variant in ("rms", "row"):
        assert all(0 <= value <= 1 + 1e-9 for value in score(variant, prediction, reference).values())
    assert 0 <= score("rnss", prediction, reference) <= 1


def test_rows_in_another_order_score_the_same():
    rows = big("country", 6).splitlines()
    random.Random(0).shuffle(rows[1:])
    assert score("row", "\n".join([rows[0], *rows[:0:-1]]), "\n".join(rows))["f1"] == pytest.approx(1)
