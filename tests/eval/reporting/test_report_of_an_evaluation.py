"""The page of an evaluation: what it says is what the records say, and nothing that others wrote is taken for markup."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest

from eval import stats
from eval.arms import make
from eval.chart_suite import evaluate_charts
from eval.evaluate import Running, evaluate
from eval.models import Completion
from eval.reporting import cards as cards_module
from eval.reporting import report_charts, report_directory, write_report
from eval.reporting.calibration import calibration
from eval.reporting.cards import cards, choose
from eval.reporting.tables import side_by_side, tables
from eval.reporting.text import clean
from eval.reporting.verdicts import counts, verdict
from eval.several import run_several
from eval.tasks import Item, Task, charts
from tests.eval.conftest import picture

HOSTILE = '</style></details><script>alert(1)</script><img src=http://evil.test/x onerror="a()">{{ 7*7 }}|`_\x00\u202e\ud800'


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def record(i: int, score=1.0, prediction="1", **more) -> dict:
    base = {
        "id": f"q{i}",
        "input": "x",
        "question": f"Q{i}?",
        "references": ["1"],
        "image": f"p{i}",
        "metric": "exact_match:ignore_case",
    }
    return base | {"prediction": prediction, "output": f"out {i}", "rationale": None, "finish": "stop", "score": score} | more


def items(count: int, **more) -> list[Item]:
    return [Item(f"q{i}", f"Q{i}?", ("1",), **{"images": (picture(i),), **more}) for i in range(count)]


def summary(**more) -> dict:
    return {
        "task": "made",
        "metric": "exact_match:ignore_case",
        "exact_match": stats.share([1, 0], variant="ignore_case"),
        **more,
    }


MIXED = [
    record(0), record(1, 0.0, "2"), record(2, 0.0, None), record(3, 0.6), record(4, 0.4),
    {**{k: v for k, v in record(5).items() if k != "score"}, "prediction": None, "error": "no such file"},
    {k: v for k, v in record(6).items() if k != "score"},
    record(7, "B", "so B", metric="multiple_choice:mmmu", references=["B"], choices={"A": "x", "B": "y"}),
    record(8, "A", "so A", metric="multiple_choice:mmmu", references=["B"], choices={"A": "x", "B": "y"}),
    record(9, None, "so what", metric="multiple_choice:mmmu", references=["B"], choices={"A": "x", "B": "y"}),
]  # fmt: skip
WANT = ["right", "wrong", "unparsed", "right", "wrong", "error", "unscored", "right", "wrong", "unparsed"]


def test_verdicts():
    assert [verdict(r) for r in MIXED] == WANT
    assert counts(MIXED) == {"right": 3, "wrong": 3, "unparsed": 2, "error": 1, "unscored": 1}


def test_each_sample_is_found_by_its_filter(tmp_path):
    html = write_report(tmp_path, MIXED, summary(), items(10)).read_text()
    page = Page(html)
    assert [attrs["class"] for attrs in page.all("details")] == WANT
    filters = [attrs["id"] for attrs in page.all("input")]
    assert filters == ["show-all", "show-right", "show-wrong", "show-unparsed", "show-error", "show-unscored"]
    for name in filters[1:]:
        assert f"#{name}:checked ~ .samples > :not(.{name.removeprefix('show-')}) {{ display: none; }}" in html
    assert "no such file" in html and "B. y" in html


def test_hostile_text_stays_text(tmp_path):
    records = [
        record(i, i % 2, HOSTILE, question=HOSTILE, output=HOSTILE, rationale=HOSTILE, id=f"{HOSTILE}{i}") for i in range(4)
    ]
    records.append({**record(9), "error": HOSTILE, "id": HOSTILE})
    figure = stats.share([1, 0], variant=HOSTILE)
    said = summary(**{HOSTILE: figure, "by_kind": {HOSTILE: figure, "$\\frac$": figure}, "by_x": {"a": {HOSTILE: figure}}})
    said |= {"task": HOSTILE, "convention": HOSTILE}
    path = write_report(tmp_path, records, said, [], model=HOSTILE)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:image/") for attrs in page.all("img"))
    assert "{{ 7*7 }}" in html and not re.search(r"@import|url\(", html) and "\u202e" not in html
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<" not in text
    for block in text.split("\n\n"):
        pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(pipes) == 1 and (pipes == {0}) == (not block.startswith("|"))


def test_pictures_are_bounded_and_broken_ones_left_out(tmp_path, monkeypatch):
    noise = io.BytesIO()
    PIL.Image.effect_noise((900, 600), 90).save(noise, "PNG")
    given = [Item(f"q{i}", "", ("1",), images=(noise.getvalue(),) * 6) for i in range(6)]
    given[0] = Item("q0", "", ("1",), images=(b"none", Path("/nowhere.png"), picture(3)))
    monkeypatch.setattr(cards_module, "BYTES", 150_000)
    found = cards({"": [record(i) for i in range(6)]}, given)
    assert len(found[0]["pictures"]) == 1 and len(found[1]["pictures"]) == 4 and not found[-1]["pictures"]
    assert sum(len(p) for card in found for p in card["pictures"]) <= 150_000


def test_a_long_evaluation_gives_a_short_page(tmp_path):
    records = [record(i, float(i % 50 > 0), output="x" * 100_000, question="y" * 100_000) for i in range(3000)]
    page = write_report(tmp_path, records, summary(by_tag={f"t{i}": stats.share([1], variant="v") for i in range(2000)}), [])
    assert page.stat().st_size < 2_000_000
    chosen = choose(records)
    assert [verdict(r) for r in chosen].count("wrong") == [verdict(r) for r in chosen].count("right") == 40
    assert chosen == sorted(chosen, key=lambda r: int(r["id"][1:])) and chosen[-1]["id"] == "q2999"


def test_calibration_of_a_model_that_knows():
    """Sure ones are right in 9 of 10, doubtful ones in 1 of 10."""
    rows = [
        record(i, float((i % 10 > 0) == (i < 100)), logprob=math.log(0.9 if i < 100 else 0.1), tokens=[1, 2])
        for i in range(200)
    ]
    found = calibration(rows)
    assert found.error == pytest.approx(0, abs=1e-9) and found.auroc == pytest.approx(0.9) and len(found.bins) == 10
    assert [round(sure, 3) for sure, _ in found.bins] == [0.1] * 5 + [0.9] * 5
    long = calibration([row | {"tokens": [1] * 50, "logprob": 25 * row["logprob"]} for row in rows])
    assert long.error is None and long.bins[-1][0] == pytest.approx(0.9**0.5)
    assert calibration(rows[:15]) is None and calibration([r | {"logprob": None} for r in rows]) is None
    assert calibration([r | {"score": 1.0} for r in rows]) is None


def test_any_figures_of_a_summary_become_a_table():
    figure = stats.share([1, 1, 0, 1], variant="v")
    found = summary(
        by_kind={"a": figure}, errors_found={"step": {"value": figure, "label": figure}}, rounds={"deep": {"x": figure}}
    )
    assert [(table.title, table.columns, list(table.rows)) for table in tables(found)] == [
        ("by kind", ("figure", "n"), ["a"]),
        ("errors found", ("value", "label"), ["step"]),
        ("rounds", ("x",), ["deep"]),
    ]
    (joined, *_) = side_by_side({"one": tables(found), "two": tables(summary(by_kind={"b": figure}))})
    assert joined.columns == ("one", "two") and joined.rows["a"][1] == "–" and joined.rows["b"][1].startswith("75.0 %")


def test_figures_that_are_no_shares_are_numbers(tmp_path):
    write_report(tmp_path, [record(0)], summary(total={"value": 1234.5, "interval": [1200, 1300], "n": 1, "variant": "v"}), [])
    assert "1234.5 \\[1200, 1300\\]" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("text", ["a\x1b[31m", "\ud83d", "a\u202eb", "fine\n\tüé漢🙂"])
def test_clean_text_is_shown_and_can_be_written(text):
    shown = clean(text)
    assert shown.encode("utf-8") and ("\\u" in shown) == (text[0] != "f")


# -- from an evaluation ---------------------------------------------------------------------------------------------------


class Says:
    """Right for an even number; the rationale arm never."""

    def fingerprint(self):
        return "says"

    def length(self, sample):
        return 1

    def context_length(self):
        return None

    def complete(self, requests):
        even = [int(request.sample.key[1:]) % 2 == 0 for request in requests]
        texts = ["so\nAnswer: 0" if r.max_new_tokens > 99 else str(int(ok)) for ok, r in zip(even, requests, strict=True)]
        return [[Completion(text, "stop", (1,), (-0.1,))] for text in texts]


TASK = Task("made", lambda *_: items(30), "exact_match", by=("kind",))


def test_arms_stand_side_by_side(tmp_path):
    asked = items(30, tags={"kind": "one"})
    arms = {name: {0: make(TASK, name)} for name in ("none", "single")}
    said = run_several(lambda arm, out: evaluate(Says(), TASK, asked, out, arm=arm), arms, tmp_path)
    path = report_directory(tmp_path, said, asked, "says")
    page, text = Page(path.read_text()), path.with_suffix(".md").read_text()
    assert sum("differ" in attrs["class"].split() for attrs in page.all("details")) == 15
    assert "show-differ" in [attrs["id"] for attrs in page.all("input")]
    assert re.search(r"\| single \| 0\.0 %.*-50\.0 %.*better in 0, worse in 15", text)
    assert re.search(r"\| one \| 50\.0 %[^|]*\| 0\.0 %", text)


def test_several_draws_of_examples_and_predictions_without_scores(tmp_path):
    asked = items(30, tags={"kind": "one"})
    arms = {"none": {0: make(TASK, "none"), 1: make(TASK, "none", seed=1)}}
    said = run_several(lambda arm, out: evaluate(Says(), TASK, asked, out, arm=arm), arms, tmp_path / "seeds")
    path = report_directory(tmp_path / "seeds", said, asked)
    assert "over 2 seeds" in path.with_suffix(".md").read_text() and len(Page(path.read_text()).all("details")) == 30
    only = evaluate(Says(), TASK, asked, tmp_path / "only", arm=make(TASK), running=Running(scored=False))
    page = Page(report_directory(tmp_path / "only", only, asked).read_text())
    assert {attrs["class"] for attrs in page.all("details")} == {"unscored"}


def test_a_shard_that_is_missing_is_said(tmp_path):
    asked = items(30, tags={"kind": "one"})
    said = evaluate(Says(), TASK, asked, tmp_path, arm=make(TASK), running=Running(shard=(0, 2)))
    path = report_directory(tmp_path, said, asked)
    assert "15 items are missing" in path.read_text() and len(Page(path.read_text()).all("details")) == 15


def test_the_page_is_the_same_each_time(tmp_path):
    asked = items(30, tags={"kind": "one"})
    said = evaluate(Says(), TASK, asked, tmp_path, arm=make(TASK))
    first = report_directory(tmp_path, said, asked).read_bytes()
    read = json.loads((tmp_path / "summary.json").read_text())
    assert report_directory(tmp_path, read, asked).read_bytes() == first


def test_the_chart_suite_has_its_three_arms(model_and_processor, tmp_path):
    said = evaluate_charts(*model_and_processor, tmp_path, count=8, cot_count=5)
    path = report_charts(tmp_path, said, charts.items(count=8))
    text = path.with_suffix(".md").read_text()
    assert len(Page(path.read_text()).all("details")) == 8 and "## chain of thought" in text and "hallucination: auroc" in text
    for name in ("with the picture", "blanked", "rationale first"):
        assert f"| {name} |" in text
