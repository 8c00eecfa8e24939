"""Questions are unambiguous and right, their rationales agree with the table, and answers cannot be guessed from the words."""

import re
from collections import Counter, defaultdict

import pytest

from datasets.charts.asker import UNANSWERABLE
from datasets.charts.kinds import CHART_TYPES, QUESTION_KINDS
from datasets.charts.profile import PROFILES, make_profile
from datasets.charts.questions import applicable, make_question, make_questions
from datasets.charts.spec import make_spec
from datasets.charts.steps import check_steps


def asked(profile, count=300, seed=21, per_chart=5):
    chosen = make_profile(profile)
    for index in range(count):
        spec = make_spec(seed, index, "train", chosen)
        for question in make_questions(spec, per_chart, chosen):
            yield spec, question


@pytest.mark.parametrize("profile", PROFILES)
def test_every_step_of_a_rationale_is_understood_and_right(profile):
    for spec, question in asked(profile):
        for check in check_steps(question.rationale, spec.table):
            assert check.correct is True, (question, check)
            assert check.spans, (question, check)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_answer_follows_from_the_last_step(profile):
    for _spec, question in asked(profile):
        last = question.rationale.rpartition("; ")[2]
        match question.kind:
            case "sum" | "difference" | "ratio" | "average":
                assert last.endswith(f"= {question.answer}")
            case "label" | "extremum":
                assert last.endswith(f" is {question.answer}")
            case "value" | "trend":
                assert last.endswith(f" {question.answer}")
            case "count":
                assert question.answer in last.split()
            case "unanswerable":
                assert last.startswith("no ")
                assert question.answer == UNANSWERABLE


@pytest.mark.parametrize("profile", PROFILES)
def test_answers_of_simple_bar_charts_against_an_independent_reading(profile):
    """The question's words are read here by rules of their own and answered from the table."""
    seen = Counter()
    only_bars = make_profile(profile, types={"vertical_bar": 1, "horizontal_bar": 1})
    for spec, question in asked(only_bars, 500):
        values = dict(zip(spec.table.categories, spec.table.values[0], strict=True))
        names = [n for n in sorted(values, key=len, reverse=True) if re.search(rf"\b{n}\b", question.text)]
        if question.answer == UNANSWERABLE:
            assert len(names) < 2
            continue
        truth = {
            "extremum": lambda v=values, q=question: {
                n for n in v if v[n] == (max if re.search("highest|longest", q.text) else min)(v.values())
            },
            "value": lambda v=values, n=names, s=spec: {s.table.number.text(v[n[0]])},
            "difference": lambda v=values, n=names, s=spec: {s.table.number.text(abs(v[n[0]] - v[n[1]]))},
            "compare": lambda v=values, n=names, q=question: {
                (max if re.search("higher|longer", q.text) else min)(n, key=v.__getitem__)
            },
        }.get(question.kind)
        if truth:
            assert truth() == {question.answer}, (question, values)
            seen[question.kind] += 1
    asked_for = {"extremum", "value", "difference", "compare"} & {kind for kind, weight in only_bars.kinds.items() if weight}
    assert asked_for and min(seen[kind] for kind in asked_for) > 30


@pytest.mark.parametrize("profile", PROFILES)
def test_every_type_can_be_asked_every_kind(profile):
    chosen = make_profile(profile)
    for type_ in CHART_TYPES:
        for kind in QUESTION_KINDS:
            found = [make_question(make_spec(1, i, "train", chosen, type_=type_), kind) for i in range(30)]
            assert any(found) == applicable(kind, type_), (type_, kind)


def test_questions_of_a_chart_differ_and_repeat_exactly():
    profile = make_profile("sight")
    for index in range(50):
        spec = make_spec(1, index)
        first = make_questions(spec, 6, profile)
        assert first == make_questions(spec, 6, profile)
        assert len({question.text for question in first}) == len(first)


def test_texts_are_whole_sentences():
    for profile in PROFILES:
        for _spec, question in asked(profile, 200):
            assert not re.search(r"[{}]|  | \?|\ba [aeiou]", question.text), question.text
            assert question.text[0].isupper()
            assert question.text[-1] in "?."


def test_answers_are_balanced():
    answers = defaultdict(Counter)
    for _spec, question in asked("sight", 4000, per_chart=4):
        answers[question.kind][question.answer] += 1

    def share(kind, answer):
        return answers[kind][answer] / answers[kind].total()

    assert share("yes_no", "yes") == pytest.approx(0.5, abs=0.03)
    for trend in ("rising", "falling", "flat", "mixed"):
        assert 0.13 < share("trend", trend) < 0.33
    for kind in ("extremum", "label", "compare"):
        assert max(share(kind, answer) for answer in answers[kind]) < 0.14
    assert max(share("value", str(v)) for v in range(1, 10)) < 0.18
    assert max(share("count", str(v)) for v in range(7)) < 0.32


def test_guessing_from_the_words_alone_stays_near_chance():
    """The best guess for each exact wording, learnt on other charts."""
    seen = defaultdict(Counter)
    for _spec, question in asked("sight", 5000, seed=31, per_chart=4):
        seen[_blurred(question.text)][question.answer] += 1
    right = total = 0
    for _spec, question in asked("sight", 800, seed=32, per_chart=4):
        guesses = seen[_blurred(question.text)].most_common(1)
        right, total = right + bool(guesses and guesses[0][0] == question.answer), total + 1
    assert right / total < 0.3


def _blurred(text):
    """All but the names of colours, so that each wording is seen often."""
    return re.sub(r"\b(red|blue|green|orange|purple|yellow|black|pink)\b", "COLOUR", text)
