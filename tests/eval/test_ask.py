"""`eval.ask`: through a chat template, and words whose first letter spans tokens."""

from __future__ import annotations

import sys

import pytest

import vlm
from eval import ask
from eval.hallucination import DETECTORS
from eval.hallucination.marking import Marking
from tests.eval.conftest import picture
from vlm import prompt
from vlm.sample import Image, Text

TEMPLATE = (
    "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<bos>{% endif %}"
)
WORDS = " \u00e9t\u00e9 \u8a9e \U0001f600 x"


@pytest.mark.parametrize("marking", [None, Marking(DETECTORS["logprob"], -1e9)])
def test_words_of_wide_characters_come_whole(model_and_processor, monkeypatch, marking):
    model, processor = model_and_processor
    monkeypatch.setattr(model, "stream", lambda batch, **options: ((token, -1.0) for token in processor.tokenize(WORDS)))
    words = list(ask.answer(model, processor, prompt.question([Image(picture(9))], "Which?"), marking))
    assert "".join(word for word, _ in words) == WORDS
    assert [word.strip() for word, _ in words if word.strip()] == WORDS.split()


def asked(model_and_processor, monkeypatch, tmp_path, *options):
    """What the model is asked by the command with these options, and the processor."""
    (tmp_path / "a.png").write_bytes(picture(9))
    questions = []
    monkeypatch.setattr(vlm, "load", lambda *_, **__: model_and_processor)
    monkeypatch.setattr(ask, "answer", lambda model, processor, question, *_: questions.append(question) or [])
    monkeypatch.setattr(
        sys, "argv", ["eval.ask", "--checkpoint", "x", str(tmp_path / "a.png"), "Which <eos>?", "--plain", *options]
    )
    ask.main()
    return questions[0]


def test_chat_asks_through_the_template(model_and_processor, monkeypatch, tmp_path):
    monkeypatch.setattr(model_and_processor[1], "chat_template", TEMPLATE)
    question = asked(model_and_processor, monkeypatch, tmp_path, "--chat")
    texts = [(s.text, s.special) if isinstance(s, Text) else "picture" for s in question.segments]
    typed = ("Which <eos>?", False)
    assert texts == [("<bos>", True), ("user: ", False), "picture", typed, ("<eos>", True), ("<bos>", True)]


def test_chat_without_a_template_is_said(model_and_processor, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no chat template"):
        asked(model_and_processor, monkeypatch, tmp_path, "--chat")
