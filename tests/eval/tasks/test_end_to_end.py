"""Every task through an arm, the engine, its metric and the summary: all answered right, and all wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from eval import tasks
from eval.arms import make
from eval.evaluate import Running, evaluate
from eval.models import Completion, Request
from eval.summarize import summary_lines
from eval.tasks import Item
from tests.eval.tasks.releases import RELEASES
from vlm.sample import Image, Sample, Text

pytest.importorskip("pyarrow")


class Says:
    """A model that answers by the item's id."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.seen: dict[str, Sample] = {}

    def fingerprint(self) -> str:
        return "says"

    def length(self, sample: Sample) -> int:
        return 10

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.seen |= {request.sample.key: request.sample for request in requests}
        return [[Completion(self.answer(request.sample.key))] for request in requests]


def gold(item: Item) -> str:
    return item.references[0] if item.references else "The sky over a tree."


# the figure that is 1 when all is right (AMBER's denominators are a little too large)
MAIN = {"pope": "f1", "hallusionbench": "fAcc", "amber": "recall", "mme": "accuracy_plus"}


@pytest.mark.parametrize(("name", "write", "split", "count"), [pytest.param(*r, id=r[1].__name__) for r in RELEASES])
def test_all_right_and_all_wrong(name, write, split, count, tmp_path):
    write(tmp_path / "data")
    task = tasks.get(name)
    items = task.items(tmp_path / "data", split)
    by_id = {item.id: item for item in items}
    figures = {}
    for label, answer in (("right", lambda key: gold(by_id[key])), ("wrong", lambda key: "zzz 777")):
        out = tmp_path / label
        running = Running(scored=name != "coco_caption")  # Java programs, half a minute
        summary = evaluate(Says(answer), task, items, out, arm=make(task), running=running)
        figures[label] = summary
        assert summary["missing"] == 0 and "errors" not in summary and summary_lines(summary)
        records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        assert [record["id"] for record in records] == [item.id for item in items]
        assert all(f"by_{tag}" in summary for tag in task.by)
    main = MAIN.get(name) or task.metric.split(":")[0]
    if name == "coco_caption":
        return
    if name == "pope":
        assert figures["right"]["accuracy"]["value"] == 1
        return
    if name == "amber":
        assert figures["right"]["accuracy"]["value"] > 0.99 and figures["right"]["CHAIR"]["value"] == 0
        return
    assert figures["right"][main]["value"] == 1
    assert figures["wrong"][main]["value"] == 0
    for other in task.also:
        assert figures["right"]["also"][other]


@pytest.mark.parametrize(
    ("name", "said", "score"),
    [
        ("pope", "", "yes"),  # as the official script has it: all but a no is a yes
        ("pope", "no\nyes", "yes"),
        ("pope", "\nno", "no"),  # blanks at the ends are none of it
        ("pope", "no, it is not. yes", "no"),
        ("mme", "", None),
        ("mme", "\nyes", "yes"),
        ("hallusionbench", "No.\nYes.", {"mark": 2, "correct": 0.0}),
        ("hallusionbench", "", {"mark": 2, "correct": 0.0}),
    ],
)
def test_official_scorers_read_all_that_was_said(name, said, score, tmp_path):
    _, write, split, _ = next(release for release in RELEASES if release[0] == name)
    write(tmp_path / "data")
    task = tasks.get(name)
    items = task.items(tmp_path / "data", split)
    assert evaluate(Says(lambda key: said), task, items, tmp_path / "out", arm=make(task))["missing"] == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    seen = [record for record in records if (record.get("category"), record.get("figure_id")) != ("VS", "0")]
    assert seen and all(record["score"] == score for record in seen)


def shown(sample: Sample) -> str:
    return "".join("▢" if isinstance(part, Image) else part.text for part in sample.segments if isinstance(part, Image | Text))


def asked(name: str, tmp_path: Path, convention: str = "chat") -> dict[str, str]:
    """The prompts of a task's release, as text."""
    _, write, split, _ = next(release for release in RELEASES if release[0] == name)
    write(tmp_path / "data")
    task, model = tasks.get(name), Says(lambda key: "A")
    evaluate(
        model,
        task,
        task.items(tmp_path / "data", split),
        tmp_path / "out",
        arm=make(task, convention=convention),
        running=Running(scored=False),
    )
    return {key: shown(sample) for key, sample in model.seen.items()}


def test_pictures_of_mmmu_stand_where_the_text_names_them(tmp_path):
    prompts = asked("mmmu", tmp_path)
    first, second = (prompts[f"validation_Art_Theory_{i}"] for i in (1, 2))
    assert first.startswith("Is ▢ older than ▢?\nA. yes\nB. it's not\n") and "letter" in first
    assert second.startswith("Is ▢ older than ▢?\n") and "word or phrase" in second and "A. " not in second


def test_a_question_brings_its_own_instruction(tmp_path):
    prompts = asked("mathvista", tmp_path)
    assert prompts["1"] == "▢How long? (Unit: cm)\nAnswer with a number with one decimal place."
    assert re.fullmatch(r"▢How long\?\nA\. 3\nB\. 145°\nAnswer with the letter .*", prompts["2"])
    assert "Answer with" not in asked("mathvista", tmp_path / "own", "own")["1"]


def test_scienceqa_has_its_hint_and_its_columns(tmp_path):
    prompts = asked("scienceqa", tmp_path, "own")
    assert prompts["4"] == "▢Question: Context: Look.\nWhich is it?\nA. this\nB. that\nAnswer:"
    assert prompts["5"] == "Question: Which is it?\nA. this\nB. that\nAnswer:"
    task = tasks.get("scienceqa")
    summary = evaluate(Says(lambda key: "B"), task, task.items(tmp_path / "data", "test"), tmp_path / "all", arm=make(task))
    columns = {name: (figure["value"], figure["n"]) for name, figure in summary["scienceqa"].items()}
    assert columns["NAT"] == (1, 1) and columns["LAN"] == (0, 1) and columns["SOC"] == (None, 0) and columns["Avg"] == (0.5, 2)
    assert columns["TXT"] == columns["IMG"] == columns["G1-6"] == (1, 1) and columns["NO"] == columns["G7-12"] == (0, 1)


def test_yes_no_scorers_get_what_was_written(tmp_path):
    for name, written, score in (("pope", "", "yes"), ("pope", "no\nyes", "yes"), ("mme", "a\nno", "no")):
        write = next(write for label, write, *_ in RELEASES if label == name)
        write(tmp_path / name)
        task = tasks.get(name)
        out = tmp_path / "out" / name / str(len(written))
        evaluate(Says(lambda key, written=written: written), task, task.items(tmp_path / name, None)[:2], out, arm=make(task))
        records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        assert {record["score"] for record in records} == {score}


def test_pope_has_figures_of_each_file(tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "pope")
    write(tmp_path / "data")
    task = tasks.get("pope")
    model = Says(lambda key: "yes" if key != "popular-2" else "no")
    summary = evaluate(model, task, task.items(tmp_path / "data", None), tmp_path / "out", arm=make(task))
    assert {name: part["accuracy"]["value"] for name, part in summary["by_category"].items()} == {
        "random": 0.5, "popular": 1, "adversarial": 0.5,
    }  # fmt: skip
    assert len(task.items(tmp_path / "data", "popular")) == 2


def test_a_question_of_several_types_counts_in_each(tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "docvqa")
    write(tmp_path / "data")
    task = tasks.get("docvqa")
    summary = evaluate(Says(lambda key: "$0.28"), task, task.items(tmp_path / "data", None), tmp_path / "out", arm=make(task))
    assert {name: figure["n"] for name, figure in summary["by_question_type"].items()} == {"form": 1, "table/list": 1}


def test_answers_that_are_not_public_can_be_predicted_and_not_scored(tmp_path):
    row = {"questionId": 1, "question": "What?", "image": "x.png", "data_split": "test"}
    (tmp_path / "data/documents").mkdir(parents=True)
    (tmp_path / "data/test_v1.0.json").write_text(json.dumps({"data": [row]}))
    shutil.copy(Path(__file__).parents[3] / "docs/chart.png", tmp_path / "data/documents/x.png")
    task = tasks.get("docvqa")
    items = task.items(tmp_path / "data", "test")
    with pytest.raises(ValueError, match="--predict-only"):
        evaluate(Says(lambda key: "x"), task, items, tmp_path / "out", arm=make(task))
    evaluate(Says(lambda key: "x"), task, items, tmp_path / "out", arm=make(task), running=Running(scored=False))
    assert json.loads((tmp_path / "out/records.jsonl").read_text())["prediction"] == "x"


@pytest.mark.parametrize("name", ["score", "error", "prediction", "image"])
def test_a_row_cannot_score_itself(name, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "q", "answers": "a", "options": {name: 1}}))
    with pytest.raises(ValueError, match=rf"test\.jsonl:1: `options` cannot have '{name}'"):
        tasks.get("custom").items(tmp_path, None)
