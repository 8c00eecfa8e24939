"""The judge of rationales: right and wrong steps of every form, exact spans, and no exception whatever the text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasets.charts.steps import check_steps, judged_spans
from datasets.charts.table import NumberFormat, Table, table_text

BARS = Table("vertical_bar", ("red", "blue", "green"), (), ((7, 3, 9),))
GROUPS = Table("grouped_bar", ("first", "second"), ("red", "blue"), ((3, 7), (2, 9)), by_position=True)
TRADE = Table(
    "line", ("2019", "2020"), ("Exports", "Imports"), ((34, 56), (31, 49)), NumberFormat(1, "$", "B"), "Trade in Lima"
)


@pytest.mark.parametrize(
    ("table", "step", "kind", "correct"),
    [
        (BARS, "red 7", "fact", True),
        (BARS, "red 8", "fact", False),
        (BARS, "purple 7", "fact", False),
        (BARS, "3 bars", "fact", True),
        (BARS, "4 bars", "fact", False),
        (BARS, "3 slices", "fact", False),
        (BARS, "second is blue", "fact", True),
        (BARS, "second is red", "fact", False),
        (BARS, "ninth is red", "fact", False),
        (BARS, "7 is red", "fact", True),
        (BARS, "7 is blue", "fact", False),
        (BARS, "no purple", "fact", True),
        (BARS, "no red", "fact", False),
        (BARS, "red is there", "fact", True),
        (BARS, "pink is there", "fact", False),
        (BARS, "highest is green", "comparison", True),
        (BARS, "lowest is green", "comparison", False),
        (BARS, "7 > 3", "comparison", True),
        (BARS, "3 > 7", "comparison", False),
        (BARS, "8 > 3", "comparison", False),
        (BARS, "7 > 5", "comparison", True),
        (BARS, "above 5: red, green", "comparison", True),
        (BARS, "above 5: red", "comparison", False),
        (BARS, "below 2: none", "comparison", True),
        (BARS, "7 - 3 = 4", "arithmetic", True),
        (BARS, "7 - 3 = 5", "arithmetic", False),
        (BARS, "8 - 3 = 5", "arithmetic", False),
        (BARS, "7 + 3 + 9 = 19", "arithmetic", True),
        (BARS, "9 / 3 = 3", "arithmetic", True),
        (BARS, "9 / 0 = 3", "arithmetic", False),
        (BARS, "a green hill far away", "unparsed", None),
        (BARS, "vertical bars: red 7", "fact", True),
        (BARS, "pie: red 7", "fact", False),
        (GROUPS, "red: 3 7", "fact", True),
        (GROUPS, "red: 3 8", "fact", False),
        (GROUPS, "red: 3", "fact", False),
        (GROUPS, "red: 3 7 1", "fact", False),
        (GROUPS, "second: red 7, blue 9", "fact", True),
        (GROUPS, "second: red 7, blue 8", "fact", False),
        (GROUPS, "2 groups", "fact", True),
        (TRADE, "Exports: 2019 $3.4B, 2020 $5.6B", "fact", True),
        (TRADE, "Exports: 2019 $3.4B, 2020 $5.7B", "fact", False),
        (TRADE, "2020: Exports $5.6B, Imports $4.9B", "fact", True),
        (TRADE, "$5.6B - $4.9B = $0.7B", "arithmetic", True),
        (TRADE, "$5.6B / $3.1B = 1.8", "arithmetic", True),
        (TRADE, "$5.6B / $3.1B = 1.9", "arithmetic", False),
        (TRADE, "Exports rising", "fact", True),
        (TRADE, "Exports falling", "fact", False),
        (TRADE, "lines: Trade in Lima | Exports: 2019 $3.4B, 2020 $5.6B", "fact", True),
        (TRADE, "lines: Trade in Rome | Exports: 2019 $3.4B, 2020 $5.6B", "fact", False),
    ],
)
def test_one_step(table, step, kind, correct):
    (check,) = check_steps(step, table)
    assert (check.kind, check.correct) == (kind, correct)


def test_steps_depend_on_the_row_or_column_in_view():
    assert [c.correct for c in check_steps("second: red 7, blue 9; highest is blue", GROUPS)] == [True, True]
    assert [c.correct for c in check_steps("red: 3 7; highest is second", GROUPS)] == [True, True]
    assert [c.correct for c in check_steps("red: 3 7; highest is first", GROUPS)] == [True, False]


def test_computed_numbers_may_be_used_again():
    assert all(c.correct for c in check_steps("red 7; green 9; 7 + 9 = 16; 16 / 2 = 8", BARS))
    assert [c.correct for c in check_steps("7 + 9 = 17; 17 / 2 = 8", BARS)] == [False, False]


def test_count_is_of_the_names_just_listed():
    assert [c.correct for c in check_steps("above 5: red, green; count 2", BARS)] == [True, True]
    assert [c.correct for c in check_steps("above 5: red, green; count 3", BARS)] == [True, False]
    assert check_steps("count 3", BARS)[0].correct is None


def test_spans_mark_exactly_the_wrong_words():
    text = "red 7; cyan 3; green 8; 7 - 3 = 5"
    assert [(text[a:b], right) for a, b, right in judged_spans(text, BARS)] == [
        ("red", True), ("7", True), ("cyan", False), ("3", False), ("green", True), ("8", False),
        ("7", True), ("3", True), ("5", False),
    ]  # fmt: skip


def test_what_cannot_be_judged_is_neither_right_nor_wrong():
    assert [c.correct for c in check_steps("red 7; blue 4; well then", BARS)] == [True, False, None]
    assert check_steps("", BARS) == []


TABLES = st.sampled_from([BARS, GROUPS, TRADE])
WORDS = (
    "red blue Exports 2019 first second 7 3 9 $3.4B 9999999999999999999 1,2,3 -- 0 , ; : | = + - / is no above below count "
    "highest rising none there bars lines : \u00b2 \u0663 \u00bd"
)
PIECES = st.sampled_from([*WORDS.split(), "\n", "\t", ""])


@settings(max_examples=400, deadline=None)
@given(TABLES, st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=16).map(" ".join)))
@example(BARS, "9" * 5000 + " - 3 = 4")
@example(BARS, "red " + "9" * 5000)
@example(GROUPS, "red: " * 50)
def test_garbage_is_judged_without_an_exception(table, text):
    end = 0
    for check in check_steps(text, table):
        assert text[check.start : check.end] == check.text
        for start, stop, _right in check.spans:
            assert end <= start <= stop <= check.end
            end = stop


@settings(max_examples=100, deadline=None)
@given(TABLES, st.data())
def test_a_changed_number_is_found(table, data):
    text = table_text(table)
    numbers = [(a, b) for a, b, _ in judged_spans(text, table) if table.number.parse(text[a:b]) and text[a:b] != "2019"]
    numbers = [(a, b) for a, b in numbers if text[a:b] not in table.categories]
    start, stop = data.draw(st.sampled_from(numbers))
    value = int(table.number.parse(text[start:stop]))
    wrong = table.number.text(value + data.draw(st.integers(1, 500)))
    spans = judged_spans(text[:start] + wrong + text[stop:], table)
    assert [(a, b) for a, b, right in spans if not right] == [(start, start + len(wrong))]
