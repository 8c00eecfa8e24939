"""What each arm asks, in what words and with what room, and what it makes of the answers."""

from __future__ import annotations

import dataclasses

import pytest

from eval import conventions, metrics, parsing
from eval.arms import ARMS, make
from eval.arms.calculator import MAX_CALLS, calculator
from eval.arms.direct import direct
from eval.arms.least_to_most import by_lines, by_rule, least_to_most
from eval.arms.self_consistency import figures, self_consistency, winner
from eval.arms.settings import Asking
from eval.arms.single import single
from eval.arms.two_stage import two_stage
from eval.prompting import Prompter
from eval.tasks import Item, Task
from tests.eval.arms.scripted import play, shown
from tests.eval.conftest import picture

ITEM = Item("q1", "What is the sum of red and blue?", ("10",), (picture(1),))
HEAD = "▢Question: What is the sum of red and blue?"
CHAT = Asking(Prompter(conventions.get("chat")))
TASK = Task("mine", lambda data, split: [], "relaxed_accuracy", max_new_tokens=12)


def test_direct_asks_once():
    answered, (request,) = play(direct(ITEM, Asking()), " 10\nmore")
    assert shown(request.sample) == f"{HEAD}\nAnswer:" and request.sample.key == "q1"
    assert (request.max_new_tokens, request.stop, request.temperature, request.num_samples) == (16, (), 0.0, 1)
    assert (answered.answer, answered.output, answered.rationale) == ("10", " 10\nmore", None)


def test_single_writes_the_rationale_first():
    answered, (request,) = play(single(ITEM, Asking()), " red 7; blue 3\nAnswer: 10")
    assert shown(request.sample) == f"{HEAD}\nReason:" and request.max_new_tokens == 176
    assert (answered.answer, answered.rationale) == ("10", "red 7; blue 3")
    assert play(single(ITEM, Asking()), " red 7; blue 3; and so on")[0].answer is None


def test_two_stages_ask_twice_and_answer_even_where_the_rationale_does_not_end():
    answered, (first, second) = play(two_stage(ITEM, Asking()), " red 7; blue 3\nAnswer: 99", " 10")
    assert shown(first.sample) == f"{HEAD}\nReason:" and (first.max_new_tokens, first.stop) == (160, ("\nAnswer:",))
    assert shown(second.sample) == f"{HEAD}\nReason: red 7; blue 3\nAnswer:" and second.max_new_tokens == 16
    assert (answered.answer, answered.rationale, answered.output) == ("10", "red 7; blue 3", " 10")


def test_a_conversation_has_the_rationale_as_the_models_turn():
    answered, (first, second) = play(two_stage(ITEM, CHAT), "Red is 7.\nAnswer: 99", "10")
    assert first.stop == () and shown(first.sample).startswith("▢What is the sum of red and blue?\nThink step by step.")
    assert shown(second.sample).endswith("[Red is 7.]Give the answer alone.")
    assert (answered.answer, answered.rationale) == ("10", "Red is 7.")
    assert play(single(ITEM, CHAT), "Red is 7.\n**Final answer:** 10")[0].answer == "10"


def test_self_consistency_takes_the_majority_of_what_parses():
    asking = Asking(samples=5, temperature=0.7, seed=3)
    outputs = [" no end", " a\nAnswer: 9", " b\nAnswer: 10.0", " c\nAnswer: 9.0", " d\nAnswer: 10"]
    answered, (request,) = play(self_consistency(ITEM, asking), outputs)
    assert (request.num_samples, request.temperature) == (5, 0.7)
    assert answered.answer == "9" and answered.rationale == "a"  # 9 and 10 tie: the one drawn first
    assert answered.extra == {"outputs": outputs, "answers": [None, "9", "10.0", "9.0", "10"], "votes": 2, "voters": 4}
    again = play(self_consistency(ITEM, asking), outputs)[1][0]
    other = play(self_consistency(ITEM, Asking(samples=5, temperature=0.7, seed=4)), outputs)[1][0]
    assert again.seed == request.seed != other.seed
    assert play(self_consistency(ITEM, asking), ["x"] * 5)[0].answer is None


@pytest.mark.parametrize(
    ("ballots", "best"),
    [(["a", "b", "b"], "b"), (["a", "b"], "a"), ([None, "b", None], "b"), ([None, None], None), ([], None)],
)
def test_majority(ballots, best):
    assert winner(ballots) == best


def test_single_samples_and_the_best_of_them_are_figures_of_their_own():
    rows = [
        {"image": "a", "answers": ["1", "2", None, "2"], "votes": 2, "references": ["1"]},
        {"image": "b", "answers": ["5", "5", "5", "5"], "votes": 4, "references": ["5"]},
    ]
    found = figures(rows, metrics.get("relaxed_accuracy"))
    assert {name: figure["value"] for name, figure in found.items()} == {
        "single_sample": 0.625, "oracle_at_4": 1.0, "agreement": 0.75,
    }  # fmt: skip
    assert found["oracle_at_4"]["variant"] == "pix2struct, best of 4 samples"


def test_votes_are_what_a_metric_parses():
    vote = parsing.vote_of("relaxed_accuracy")
    assert vote(ITEM, "10") == vote(ITEM, " 10.00 ") != vote(ITEM, "10%")


def test_the_calculator_works_out_what_is_called_for():
    script = (" red 7.5; 7.5 + 3 = <<7.5+3>>99", "; <<1/0>>", " 8\nAnswer: 10.5")
    answered, requests = play(calculator(ITEM, Asking()), *script)
    assert [shown(r.sample) for r in requests] == [
        f"{HEAD}\nReason:",
        f"{HEAD}\nReason: red 7.5; 7.5 + 3 = <<7.5+3>>10.5",
        f"{HEAD}\nReason: red 7.5; 7.5 + 3 = <<7.5+3>>10.5; <<1/0>>",
    ]
    assert [(r.stop, r.max_new_tokens) for r in requests] == [((">>",), room) for room in (176, 170, 169)]  # what is left
    assert (answered.answer, answered.rationale) == ("10.5", "red 7.5; 7.5 + 3 = <<7.5+3>>10.5; <<1/0>> 8")
    assert answered.extra == {"calls": [{"call": "7.5+3", "result": "10.5"}, {"call": "1/0", "result": None}]}


def test_a_rationale_that_calls_for_ever_ends():
    answered, requests = play(calculator(ITEM, Asking()), *["<<1+1>>"] * MAX_CALLS)
    assert len(requests) == MAX_CALLS and answered.answer is None
    assert len(play(calculator(ITEM, Asking(rationale_tokens=4)), *["<<" + "1+" * 40 + "1>>"])[1]) == 1


def test_least_to_most_asks_the_parts_and_then_the_question():
    answered, requests = play(least_to_most(ITEM, Asking()), " 7", " 3", " 10")
    red = "What value does red have?\nAnswer:"
    assert [shown(r.sample) for r in requests] == [
        f"▢Question: {red}",
        f"▢Question: {red}[ 7]Question: What value does blue have?\nAnswer:",
        f"▢Question: {red}[ 7]Question: What value does blue have?\nAnswer:[ 3]Question: {ITEM.question}\nAnswer:",
    ]
    assert answered.answer == "10" and answered.extra["decomposed"] == "rule"
    assert answered.extra["parts"] == [["What value does red have?", "7"], ["What value does blue have?", "3"]]


def test_least_to_most_asks_the_model_for_parts_where_no_form_fits():
    item = Item("q", "Which year was best?", ("1",), (picture(1),))
    answered, requests = play(least_to_most(item, Asking()), "1. What is a?\n- What is b?\nnonsense", "7", "3", "2001")
    assert 'To answer "Which year was best?"' in shown(requests[0].sample) and requests[0].max_new_tokens == 160
    assert answered.extra == {"parts": [["What is a?", "7"], ["What is b?", "3"]], "decomposed": "model"}
    assert play(least_to_most(item, Asking()), "I do not know.", "2001")[0].answer == "2001"  # none: asked directly


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("How much higher is the red bar than the blue bar?", ["What value does the red bar have?",
        "What value does the blue bar have?"]),
        ("For 2019, what is the ratio of Tea to Rum to one decimal?", ["For 2019, what value does Tea have?",
        "For 2019, what value does Rum have?"]),
        ("Add 2018 and 2019.", ["What value does 2018 have?", "What value does 2019 have?"]),
        ("Is the red bar higher than 5?", ["What value does the red bar have?"]),
        ("How many bars are there?", []), ("", []), ("is " * 5000 + "higher than 3?", []),
    ],
)  # fmt: skip
def test_forms_of_the_generator_are_taken_apart(question, parts):
    assert by_rule(question) == parts


def test_parts_are_bounded_and_without_the_question_itself():
    assert by_lines("\n".join(f"{i}. What is {i}?" for i in range(50)), "Q?") == [f"What is {i}?" for i in range(6)]
    assert by_lines("1) q?\n* What?\nWhat?", "Q?") == ["What?"]


@pytest.mark.parametrize("cot", ARMS)
def test_every_arm_is_made_by_name_and_blanks(cot):
    arm = make(TASK, cot, blank=True)
    item = Item("q", "What is this?", ("1",), (picture(1),))
    request = next(arm.ask(item))
    assert arm.settings["cot"] == cot and request.sample.segments[0].data != item.pictures()[0]
    assert request.max_new_tokens == {"none": 12, "two_stage": 160, "least_to_most": 160}.get(cot, 172)


def test_settings_say_all_that_answers_depend_on():
    settings = make(TASK, "self_consistency").settings
    assert (settings["samples"], settings["temperature"], settings["seed"]) == (10, 0.7, 0)
    assert make(TASK, "none", temperature=0.5, seed=1).settings["seed"] == 1


def test_settings_tell_lengths_and_words_apart(monkeypatch):
    lengths = [make(TASK, "single", max_new_tokens=a, rationale_tokens=r).settings for a, r in ((10, 90), (90, 10))]
    assert lengths[0] != lengths[1]
    other = dataclasses.replace(TASK, instruction="In French.")
    assert make(TASK, convention="chat").settings != make(other, convention="chat").settings
    assert make(TASK).settings == make(other).settings  # which does not show it
    before = make(TASK).settings
    monkeypatch.setitem(conventions.CONVENTIONS, "own", dataclasses.replace(conventions.OWN, choice="({letter}) {text}"))
    assert make(TASK).settings != before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cot": "two_stages"}, "did you mean 'two_stage'"), ({"convention": "flamngo"}, "did you mean 'flamingo'"),
        ({"samples": 5}, "--samples 5 is for --cot self_consistency, not none"),
        ({"cot": "self_consistency", "samples": 5, "temperature": 0.0}, "5 times the same"),
        ({"cot": "self_consistency", "samples": 0}, "--samples"), ({"temperature": -1.0}, "--temperature -1"),
        ({"top_p": 0.0}, "--top-p 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(options, said):
    with pytest.raises(ValueError, match=said):
        make(TASK, **options)
