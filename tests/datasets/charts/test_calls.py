"""Calls of a calculator in rationales: an option that changes nothing but the rationales, and is passed over by the judge."""

from __future__ import annotations

import pytest

from datasets.charts.calls import CALL, place_before, with_calls, without_calls
from datasets.charts.samples import ChartSource
from datasets.charts.steps import check_steps
from datasets.charts.table import Table
from eval.calculator import calculate


@pytest.mark.parametrize("profile", ["sight", "read"])
def test_calls_change_the_rationale_alone_and_give_what_it_says(profile):
    plain = ChartSource(profile=profile, size=60)
    called = ChartSource(profile={"name": profile, "calls": True}, size=60)
    calls = 0
    for index in range(60):
        (spec, questions), (same, others) = plain.chart(0, index), called.chart(0, index)
        assert spec == same and [q.text for q in questions] == [q.text for q in others]
        for question, other in zip(questions, others, strict=True):
            assert without_calls(other.rationale)[0] == question.rationale and other == with_calls(question)
            assert _judged(question.rationale, spec.table) == _judged(other.rationale, spec.table)
            for match in CALL.finditer(other.rationale):
                assert calculate(match.group()[2:-2]) == other.rationale[match.end() :].split(";")[0]
                calls += 1
    assert calls > 20


def _judged(rationale: str, table: Table) -> list:
    checks = check_steps(rationale, table)
    return [(c.kind, c.correct, [(rationale[a:b], right) for a, b, right in c.spans]) for c in checks]


def test_a_wrong_result_after_a_call_is_found_where_it_stands():
    table = Table("vertical_bar", ("red", "blue"), (), ((7, 3),))
    text = "red 7; blue 3; 7 - 3 = <<7-3>>5"
    step = check_steps(text, table)[-1]
    assert step.correct is False and text[step.start : step.end] == "7 - 3 = <<7-3>>5"
    assert [(text[a:b], right) for a, b, right in step.spans] == [("7", True), ("3", True), ("5", False)]


def test_places_are_those_of_the_whole_text():
    text = "<<1>>a<<22>>b"
    clean, calls = without_calls(text)
    assert clean == "ab" and [place_before(i, calls) for i in (0, 1)] == [5, 12]
    assert place_before(1, calls, end=True) == 6 and text[place_before(0, calls) : place_before(1, calls, end=True)] == "a"


@pytest.mark.parametrize("text", ["<<", ">>", "<<<<>>>>", "<<a\nb>>", "<<" * 9000, "<<" + "1" * 9000 + ">>", ""])
def test_anything_is_borne(text):
    check_steps(text, Table("pie", ("red",), (), ((10,),)))
