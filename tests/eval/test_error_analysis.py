"""Constructed rationales with each error, alone and after right steps, are put down to it."""

import json
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.charts.held_out import held_out_items
from datasets.charts.table import Table
from eval import cli, error_analysis
from eval.error_analysis import ERRORS, analyse, conclusion, error_shares, error_table, find_fault

BARS = Table("vertical_bar", ("red", "blue", "green"), (), ((7, 3, 9),))
STACK = Table("stacked_bar", ("first", "second"), ("red", "blue"), ((3, 4), (2, 1)), by_position=True)
LINES = Table("line", ("first", "second", "third"), ("red", "blue"), ((3, 4, 6), (5, 2, 1)), by_position=True)
DOTS = Table("scatter", ("x", "y"), ("red", "blue"), ((3, 7), (2, 9)))
MINUS = "red 7; blue 3; 7 - 3 = 4"


@pytest.mark.parametrize(
    ("table", "gold", "rationale", "answer", "error"),
    [
        (BARS, MINUS, "red 8; blue 3; 8 - 3 = 5", "5", "wrong_value"),
        (BARS, MINUS, "8 - 3 = 5", "5", "wrong_value"),
        (BARS, MINUS, "red 7; purple 3; 7 - 3 = 4", "3", "wrong_label"),
        (BARS, MINUS, "red 7; green 9; 9 - 7 = 2", "2", "wrong_label"),
        (BARS, MINUS, "red 7; blue 3; 7 + 3 = 10", "10", "wrong_operation"),
        (BARS, MINUS, "red 7; blue 3", "7", "wrong_operation"),
        (BARS, MINUS, "red 7; blue 3; 7 - 3 = 5", "5", "wrong_arithmetic"),
        (BARS, MINUS, "red 7; blue 3; 7 - 3 = 4", "5", "inconsistent"),
        (BARS, MINUS, "red 7; blue 3; green 9; 7 - 3 = 4", "5", "inconsistent"),
        (BARS, MINUS, "well, it is far away", "5", "unparsed"),
        (BARS, MINUS, MINUS, None, "unparsed"),
        (BARS, MINUS, None, "5", "unparsed"),
        (BARS, "red 7; blue 3; 7 + 3 = 10", "blue 3; red 7; 3 + 7 = 10", "9", "inconsistent"),
        (BARS, "red 7", "blue 3", "3", "wrong_label"),
        (BARS, "red 7", "red 6", "6", "wrong_value"),
        (BARS, "red 7; blue 3; green 9; 3 bars", "red 7; blue 3; 4 bars", "4", "wrong_value"),
        (BARS, "red 7; blue 3; green 9; highest is green", "red 7; blue 3; green 9; highest is red", "red", "wrong_arithmetic"),
        (BARS, "red 7; blue 3; green 9; highest is green", "red 7; blue 3; green 9; lowest is blue", "blue", "wrong_operation"),
        (BARS, "red 7; blue 3; green 9; highest is green", "red 7; blue 3; green 9; highest is pink", "pink", "wrong_label"),
        (BARS, "red 7; blue 3; green 9; second is blue", "red 7; blue 3; green 9; third is green", "green", "wrong_label"),
        (BARS, "red 7; blue 3; 7 > 3", "red 7; blue 3; 7 < 3", "blue", "wrong_arithmetic"),
        (BARS, "red 7; blue 3; 7 > 3", "red 7; blue 3; 3 < 7", "blue", "inconsistent"),
        (BARS, "red 7; 7 > 5", "red 7; 7 < 5", "no", "wrong_arithmetic"),
        (BARS, "red 7; green 9; above 5: red, green; count 2", "red 7; above 5: red; count 1", "1", "wrong_arithmetic"),
        (
            BARS,
            "red 7; green 9; above 5: red, green; count 2",
            "red 7; green 9; below 5: blue; count 1",
            "1",
            "wrong_operation",
        ),
        (BARS, "red 7; green 9; above 5: red, green; count 2", "above 5: red, green; count 3", "3", "wrong_arithmetic"),
        (BARS, "red 7; blue 3; green 9; no pink", "red 7", "7", "wrong_label"),
        (BARS, "red 7", "no red", "unanswerable", "wrong_label"),
        (STACK, "red: 3 4; second: red 4", "blue: 2 1; second: blue 1", "1", "wrong_label"),
        (STACK, "red: 3 4; second: red 4", "red: 3 4; first: red 3", "3", "wrong_label"),
        (STACK, "red: 3 4; second: red 4", "red: 3 5; second: red 5", "5", "wrong_value"),
        (STACK, "red: 3 4; highest is second", "first: red 3, blue 2; highest is red", "red", "wrong_label"),
        (LINES, "red: 3 4 6; red rising", "red: 3 4 6; red mixed", "mixed", "wrong_arithmetic"),
        (LINES, "red: 3 4 6; red rising", "blue: 5 2 1; blue falling", "falling", "wrong_label"),
        (DOTS, "red: x 3, y 7; y: red 7", "red: x 3, y 7; x: red 3", "3", "wrong_label"),
    ],
)
def test_the_first_fault_names_the_error(table, gold, rationale, answer, error):
    assert find_fault(rationale, answer, table, gold).error == error


@pytest.mark.parametrize("profile", ["all", "reading"])
def test_a_right_rationale_has_no_fault_of_its_own(profile):
    for chart in held_out_items(7, 150, profile):
        assert find_fault(chart.rationale, "not this", chart.table, chart.rationale).error == "inconsistent"


@pytest.mark.parametrize("profile", ["all", "reading"])
def test_the_answer_is_what_the_gold_rationale_concludes(profile):
    told = 0
    for chart in held_out_items(8, 200, profile):
        said = conclusion(chart.rationale, chart.table, chart.kind)
        assert said in (None, chart.answer), (chart.rationale, chart.answer)
        told += said is not None
    assert told > 120
    assert conclusion("red 8; blue 3; 8 - 3 = 5", BARS, "difference") == "5"  # wrong, and yet what it says


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from([BARS, STACK, LINES, DOTS]))
def test_garbage_is_unparsed_or_named_but_never_raises(text, table):
    assert find_fault(text, text, table, "red 7").error in ERRORS


def records(charts):
    """Every third answer is right; of the others each second one misreads a value, the rest leave their rationale."""
    for i, chart in enumerate(charts):
        rationale = (
            chart.rationale if i % 2 else chart.rationale.replace(chart.table.number.text(chart.table.values[0][0]), "77", 1)
        )
        row = {"id": chart.id, "score": float(i % 3 == 0), "prediction": "?", "image": chart.id, "rationale": rationale}
        yield row | {"input": "x"}


def test_shares_add_up_and_right_answers_are_left_out():
    charts = held_out_items(2, 60, {"name": "all", "kinds": {"value": 1, "sum": 1}})
    rows = analyse(list(records(charts)), charts)
    assert len(rows) == 40
    shares = error_shares(rows)
    assert sum(figure["value"] for figure in shares.values()) == pytest.approx(1)
    assert all(set(figure) == {"value", "interval", "n", "variant"} and figure["n"] == 40 for figure in shares.values())
    assert shares["inconsistent"]["value"] >= 0.5 and shares["wrong_value"]["value"] > 0.2
    header, *lines = error_table(rows)
    assert [line[0] for line in lines] == ["sum", "value", "all"] and lines[-1][1] == "40"
    assert Counter(row["error"] for row in rows) == {
        e.replace(" ", "_"): int(n) for e, n in zip(header[2:], lines[-1][2:], strict=True) if n != "0"
    }


def test_no_wrong_answer_is_no_figure():
    assert all(figure["value"] is None for figure in error_shares([]).values())


def test_records_of_other_charts_are_refused():
    with pytest.raises(ValueError, match="another profile or seed"):
        analyse([{"id": "x", "score": 0.0, "prediction": None, "image": "", "rationale": ""}], held_out_items(0, 2))


def test_the_command_reads_a_finished_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "eval" / "charts" / "reason"
    folder.mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("eval: {seed: 2, charts: 30, profile: all}\n")
    monkeypatch.setattr(sys, "argv", ["eval.error_analysis", "--checkpoint", str(tmp_path), "--by", "type"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(error_analysis.main)
    assert stopped.value.code == 2 and "no records at" in capsys.readouterr().err
    rows = records(held_out_items(2, 30, "all"))
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error_analysis.main()
    assert "scatter" in capsys.readouterr().out
    assert len(json.loads((folder / "errors.json").read_text())["rows"]) == 20
