"""What is done to rationales: mistakes are mistakes, paraphrases say the same, and hostile texts do no harm."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.charts.held_out import held_out_items
from datasets.charts.rng import Draw
from datasets.charts.steps import check_steps
from datasets.charts.table import Table
from eval.faithfulness.mistakes import mistake, other_number
from eval.faithfulness.paraphrase import paraphrase
from eval.faithfulness.rationale import steps_of, up_to
from eval.tasks import Item

CHARTS = {profile: held_out_items(1, 60, profile) for profile in ("sight", "read")}
BARS = Table("vertical_bar", ("red", "blue", "green"), (), ((7, 3, 9),))


def item(table=None, **more):
    return Item("q", "Which?", ("red",), table=table, **more)


@pytest.mark.parametrize("profile", CHARTS)
@pytest.mark.parametrize("last", [True, False])
def test_a_mistake_makes_one_right_step_wrong(profile, last):
    for chart in CHARTS[profile]:
        made = mistake(chart.rationale, item(chart.table), Draw("m", chart.id), last=last)
        assert made is not None, chart.rationale
        before, after = check_steps(chart.rationale, chart.table), check_steps(made.rationale, chart.table)
        assert after[made.index].correct is False and after[made.index].text == made.text
        assert [c.text for c in after[: made.index]] == [c.text for c in before[: made.index]]
        assert [c.text for c in after[made.index + 1 :]] == [c.text for c in before[made.index + 1 :]]
        assert made.index == len(before) - 1 or not last or before[-1].text.endswith(" is there")


def test_a_mistake_is_the_same_for_the_same_seed():
    found = [
        mistake(CHARTS["read"][5].rationale, item(CHARTS["read"][5].table), Draw("m", s), last=False) for s in (1, 1, 2, 3)
    ]
    assert found[0] == found[1] and len({made.rationale for made in found}) > 1


def test_a_wrong_rationale_can_be_made_wrong_too():
    made = mistake("red 5; blue 5; 5 > 5", item(BARS), Draw("m"), last=True)
    assert made.index == 2 and made.text != "5 > 5"
    assert mistake("nothing; at all", item(BARS), Draw("m"), last=True) is None
    assert mistake("", item(BARS), Draw("m"), last=True) is None


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("The bars add up to 12.5 million.", r"The bars add up to \d+\.\d million\."),
        ("Sales were $1,234 in 2019, so 40%.", r"Sales were \$1,234 in 2019, so \d+%\."),
    ],
)
def test_a_mistake_in_words_changes_a_number(text, pattern):
    made = mistake(text, item(), Draw("m"), last=True)
    assert re.fullmatch(pattern, made.text) and made.text != text


def test_a_mistake_in_words_names_another_choice():
    choices = {"A": "the heart", "B": "the lungs", "C": "the liver"}
    made = mistake("Blood is pumped. So it is The Heart.", item(choices=choices), Draw("m"), last=True)
    assert made.index == 1 and made.text in ("So it is the lungs.", "So it is the liver.")
    assert mistake("It pumps.", item(choices=choices), Draw("m"), last=True) is None


@given(st.integers(0, 10**12), st.integers(0, 4), st.integers(0, 99))
def test_another_number_is_another_of_the_same_places(units, places, seed):
    text = f"{units // 10**places}" + (f".{units % 10**places:0{places}d}" if places else "")
    other = other_number(f"${text}%", Draw(seed))
    assert other[0] == "$" and other[-1] == "%" and float(other[1:-1]) != float(text) and float(other[1:-1]) >= 0
    assert len(other[1:-1].partition(".")[2]) == places


@pytest.mark.parametrize("profile", CHARTS)
def test_a_paraphrase_says_the_same(profile):
    found = 0
    for chart in CHARTS[profile]:
        said = paraphrase(chart.rationale, chart.table)
        found += said is not None
        if said is not None:
            assert said != chart.rationale and all(check.correct is not False for check in check_steps(said, chart.table))
            assert len(steps_of(said, of_chart=True)) == len(steps_of(chart.rationale, of_chart=True))
    assert found > len(CHARTS[profile]) / 2


def test_paraphrases():
    assert paraphrase("red 7; blue 3; 7 > 3", BARS) == "blue 3; red 7; 3 < 7"
    assert paraphrase("red 7; green 9; 7 + 9 = 16", BARS) == "green 9; red 7; 9 + 7 = 16"
    assert paraphrase("red 7", BARS) is None and paraphrase("who knows", BARS) is None and paraphrase("", BARS) is None
    assert paraphrase("red 7; blue 3; above 5: red, green; count 2", BARS) == "blue 3; red 7; above 5: green, red; count 2"


def test_steps_of_words():
    text = "First, 3.5 bars. Then more!\nAnd a line\n...\nSo 4."
    assert [s.text for s in steps_of(text, of_chart=False)] == ["First, 3.5 bars.", "Then more!", "And a line", "So 4."]
    steps = steps_of("red 7; blue 3; ; 7 > 3", of_chart=True)
    assert [up_to("red 7; blue 3; ; 7 > 3", steps, k) for k in range(4)] == [
        "",
        "red 7",
        "red 7; blue 3",
        "red 7; blue 3; ; 7 > 3",
    ]


@settings(max_examples=300)
@given(
    st.text(max_size=300) | st.from_regex(r"((red|blue|7|\$3,000|:|;|,| |\n|>|<<|=|\+|\.){0,40})", fullmatch=True),
    st.booleans(),
)
def test_no_text_raises(text, last):
    for what in (item(BARS), item(), item(choices={"A": "red", "B": "(", "C": ""})):
        made = mistake(text, what, Draw("m"), last=last)
        assert made is None or made.rationale != text
    said = paraphrase(text, BARS)
    assert said is None or len(said) <= len(text) + 2 * text.count("\n") + 2 * text.count(";")
    for of_chart in (True, False):
        steps = steps_of(text, of_chart=of_chart)
        assert all(text[s.start : s.end] == s.text for s in steps)


def test_long_texts_take_no_time():
    for text in ("a. " * 100_000, "1" * 200_000, "1," * 100_000, "a" * 300_000 + ".", " " * 300_000, "$1,111" * 50_000):
        started = time.perf_counter()
        steps_of(text, of_chart=False)
        mistake(text[:20_000], item(), Draw("m"), last=True)
        assert time.perf_counter() - started < 2
