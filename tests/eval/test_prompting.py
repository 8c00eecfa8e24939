"""From items to prompts: conventions, examples, pictures in their places, blanks."""

from __future__ import annotations

import pytest

from eval import conventions, parsing
from eval.arms.make import prompter
from eval.conventions import CONVENTIONS, OWN
from eval.pictures import blanked
from eval.prompting import Prompter
from eval.tasks import Item, Task
from tests.eval.arms.scripted import shown
from tests.eval.conftest import picture
from vlm import prompt
from vlm.image import open_image
from vlm.sample import Image, Sample, Text

CHOICES = {"A": "cat", "B": "dog"}
ITEM = Item("q1", "Which animal?", ("B",), (picture(1),), choices=CHOICES, hint="It barks.")


class Fixed:
    def __init__(self, *items: Item) -> None:
        self.items, self.settings = items, {"shots": len(items)}

    def examples(self, item: Item) -> tuple[Item, ...]:
        return self.items


def test_our_own_form_is_that_of_training():
    item = Item("k", "How high?", ("3",), (picture(1),), context="red 3", rationale="red 3")
    images = [Image(picture(1))]
    assert Prompter().ask(item) == prompt.question(images, "How high?", context="red 3", key="k")
    assert Prompter().ask(item, reason=True) == prompt.question(images, "How high?", context="red 3", reason=True, key="k")
    for reason in (False, True):
        learnt = prompt.question(images, "How high?", answer="3", rationale="red 3" if reason else None, context="red 3")
        assert tuple(Prompter().example(item, reason)) == learnt.segments


def test_examples_stand_before_the_question_each_with_its_picture():
    first = Item("a", "One?", ("1", "2", "2"), (picture(2),))
    second = Item("b", "Two?", ("5",), (picture(3),), rationale="because")
    sample = Prompter(support=Fixed(first, second)).ask(Item("q", "Three?", ("x",), (picture(4),)), reason=True)
    assert shown(sample) == (
        "▢Question: One?\nAnswer:[ 2]▢Question: Two?\nReason:[ because\nAnswer: 5]▢Question: Three?\nReason:"
    )
    assert [s.data for s in sample.segments if isinstance(s, Image)] == [picture(2), picture(3), picture(4)]


def test_a_question_sees_its_own_picture_last(model_and_processor):
    _, processor = model_and_processor
    batch = processor([Prompter(support=Fixed(Item("a", "One?", ("1",), (picture(2),)))).ask(ITEM)])
    assert batch.image_index[0, 1] == 0 and batch.image_index[0, -1] == 1
    assert (batch.tokens == processor.eos_id).sum() == 1  # the example's answer ends as in training


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own", "▢Question: Context: It barks.\nWhich animal?\nA. cat\nB. dog\nAnswer:"),
        ("flamingo", "▢Question: Context: It barks.\nWhich animal?\nA. cat\nB. dog Answer:"),
        ("openflamingo", "▢Question:Context: It barks.\nWhich animal?\nA. cat\nB. dog Short answer:"),
        ("chat", "▢Context: It barks.\nWhich animal?\nA. cat\nB. dog\nSay a letter."),
    ],
)
def test_conventions_write_a_question_down(name, text):
    assert shown(Prompter(conventions.get(name), "Say a letter.").ask(ITEM)) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llava", "▢Context: It barks.\nWhich animal?\nA. cat\nB. dog\n"
         "Answer with the option's letter from the given choices directly."),
        ("own", "▢Question: Context: It barks.\nWhich animal?\nA. cat\nB. dog\nAnswer:"),
    ],
)  # fmt: skip
def test_choices_have_a_wording_of_their_own(name, text):
    assert shown(Prompter(conventions.get(name)).ask(ITEM)) == text
    assert shown(Prompter(conventions.get("llava")).conclude(ITEM, "It barks.")).endswith(text.split("\n")[-1]) or name == "own"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openflamingo", "▢Output:[A dog.]▢Output:"), ("flamingo", "▢Output:[ A dog.]▢Output:"),
        ("llava", "▢Describe it.[A dog.]▢Describe it."),
    ],
)  # fmt: skip
def test_captions_have_a_wording_of_their_own(name, text):
    task = Task("mine", lambda data, split: [], "caption")
    item = Item("c", "Describe it.", ("A dog.",), (picture(1),))
    assert shown(prompter(task, name, Fixed(item)).ask(item)) == text


def test_examples_of_idefics_end_with_their_line():
    item = Item("a", "One?", ("1",), (picture(2),))
    text = shown(Prompter(conventions.get("idefics"), support=Fixed(item, item)).ask(item)).split("Use the image to answer.\n")[
        1
    ]
    assert text == "▢Question: One? Answer:[ 1]\n▢Question: One? Answer:[ 1]\n▢Question: One? Answer:"


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_reads_what_its_own_examples_write(name):
    convention = conventions.get(name)
    written = convention.reply("12", "red 7; blue 5").text.removeprefix(convention.gap)
    assert convention.split(written) == ("red 7; blue 5", "12")
    assert convention.split("red 7 and no end")[1] is None


def test_pictures_stand_where_the_text_names_them():
    item = Item("m", "Compare <image 2> with <image 1>, not <image 9>.", ("x",), (picture(1), picture(2), picture(3)))
    sample = Prompter().ask(item)
    assert shown(sample) == "▢Question: Compare ▢ with ▢, not <image 9>.\nAnswer:"
    assert [s.data for s in sample.segments if isinstance(s, Image)] == [picture(3), picture(2), picture(1)]


def test_blanks_are_white_and_of_the_same_size():
    sample = blanked(Sample((Image(picture(9, side=20)), Text("x"), Image(open_image(picture(5, side=31))))))
    images = [open_image(s.data) for s in sample.segments if isinstance(s, Image)]
    assert [i.size for i in images] == [(20, 20), (31, 31)] and all(i.getextrema() == ((255, 255),) * 3 for i in images)
    both = Prompter(support=Fixed(ITEM), blank=True).ask(ITEM)
    assert picture(1) not in [s.data for s in both.segments if isinstance(s, Image)]


@pytest.mark.parametrize(
    ("parser", "output", "answer"),
    [
        ("line", "\n  red \nmore", "red"), ("line", " ", None), ("text", " a\nb ", "a\nb"), ("text", "", None),
        ("raw", "", ""), ("raw", " no\nyes ", "no\nyes"),
        ("final", "So the answer is 12.5.\nBye", "12.5"), ("final", "Answer: **B**", "B"), ("final", "just this\nx",
        "just this"),
        ("final", "Answer:\nnothing", None), ("number", "about $1,234.5 in all", "1234.5"), ("number", "from 3 to −4%", "-4%"),
        ("number", "none", None),
    ],
)  # fmt: skip
def test_parsers(parser, output, answer):
    assert parsing.get(parser)(output) == answer


def test_parsers_bear_anything_in_bounded_time():
    for text in ("1," * 50_000, "answer is " * 20_000, "\n" * 100_000, "9" * 100_000, "* " * 50_000, "answer *" * 20_000):
        for parse in parsing.PARSERS.values():
            parse(text)
        OWN.split(text)
        conventions.get("chat").split(text)
        parsing.canonical(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1,000", "1000.0", True), ("Red.", " red", True), ("5%", "5", False), ("$5", "5", True), ("0", "-0.0", True), ("a b",
    "a  B", True),
     ("1e3", "1000", False), ("yes", "no", False)],
)  # fmt: skip
def test_what_is_one_vote(one, other, same):
    assert (parsing.canonical(one) == parsing.canonical(other)) is same
