"""What was written once is not written again, and never for another picture."""

from __future__ import annotations

import dataclasses

import pytest

from eval.cache import FILE, Cached
from eval.models import Completion, Request, UnusableError
from tests.eval.conftest import picture
from tests.eval.test_engine import Scripted
from vlm.sample import Image, Sample, Text


class Counting(Scripted):
    asked = 0

    def complete(self, requests):
        self.asked += len(requests)
        return [[Completion(f"{self.asked}", "length", (1, 2), (-0.5, -0.25))] * r.num_samples for r in requests]


SAMPLE = Sample((Image(picture(1)), Text("which?", learn=False)), key="a")
REQUEST = Request(SAMPLE, 8, ("\n",))


def changed(**options) -> Request:
    return dataclasses.replace(REQUEST, **options)


def test_the_same_request_is_asked_once_by_whoever_opens_the_cache(tmp_path):
    model = Counting()
    first = Cached(model, tmp_path).complete([REQUEST, REQUEST, changed(max_new_tokens=9)])
    again = Cached(model, tmp_path).complete([changed(max_new_tokens=9), REQUEST])
    assert model.asked == 2 and again == [first[2], first[0]] and first[0] == first[1]
    assert again[1][0].logprobs == (-0.5, -0.25) and again[1][0].tokens == (1, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"sample": Sample((Image(picture(2)), Text("which?", learn=False)), key="a")},  # the same id, another picture
        {"sample": Sample((Text("which?", learn=False), Image(picture(1))), key="a")},
        {"sample": Sample((Image(picture(1)), Text("which", learn=False)), key="a")},
        {"max_new_tokens": 9}, {"stop": ()}, {"temperature": 0.5}, {"temperature": 0.5, "seed": 1},
        {"temperature": 0.5, "num_samples": 2}, {"temperature": 0.5, "top_p": 0.9},
    ],
)  # fmt: skip
def test_whatever_the_answer_depends_on_is_in_the_key(tmp_path, other):
    model = Counting()
    cached = Cached(model, tmp_path)
    for request in (REQUEST, changed(temperature=0.5, seed=7), changed(**other)):
        cached.complete([request])
    assert model.asked == 3


def test_greedy_texts_depend_on_no_seed_and_no_id(tmp_path):
    model = Counting()
    Cached(model, tmp_path).complete([REQUEST, changed(seed=5, sample=dataclasses.replace(SAMPLE, key="b"))])
    assert model.asked == 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (Completion("I cannot", "refused"), False), (Completion(""), False), (Completion("", "stop", (), ()), False),
        (Completion("", "stop", (2,), (-0.1,)), True), (Completion("", "stop", (2,)), True), (Completion("a"), True),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_asked_again(tmp_path, text, kept):
    model = Counting()
    asked = []
    model.complete = lambda requests: asked.extend(requests) or [[text] for _ in requests]
    for _ in range(2):
        assert Cached(model, tmp_path).complete([REQUEST]) == [[text]]
    assert len(asked) == (1 if kept else 2)


def test_another_model_is_asked_itself(tmp_path):
    model, other = Counting(), Counting()
    other.fingerprint = lambda: "other"
    Cached(model, tmp_path).complete([REQUEST])
    Cached(other, tmp_path).complete([REQUEST])
    assert other.asked == 1


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be read as one" * 40, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_damaged_cache_is_one_line(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UnusableError, match=r"completions-1\.sqlite: not a cache that can be used") as error:
        Cached(Counting(), tmp_path).complete([REQUEST])
    assert "\n" not in str(error.value)


def test_a_damaged_row_is_one_line(tmp_path):
    cached = Cached(Counting(), tmp_path)
    cached.complete([REQUEST])
    for texts in ("{", "[{}]", '[{"text": 1, "finish": "stop", "tokens": [], "logprobs": null}]', "7", "[]", "[" * 100_000,
                  '[{"text": "a", "finish": "stop", "tokens": ["b"], "logprobs": null}]',
                  '[{"text": "a", "finish": "stop", "tokens": {}, "logprobs": null}]'):  # fmt: skip
        cached.connection.execute("UPDATE completions SET texts = ?", (texts,))
        with pytest.raises(UnusableError, match="not a cache"):
            cached.complete([REQUEST])
