"""Models that were made faithful, post hoc or blind: the suite has to say so. And its records and resumption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eval.engine import Budget
from eval.evaluate import Running, evaluate
from eval.faithfulness import TESTS, cases, make
from eval.faithfulness.page import write_page
from eval.store import read_records
from eval.tasks import charts
from tests.eval.faithfulness.scripted import Scripted, world

COUNT = 48
KEEPS_RATIONALE = ("image_white", "image_swapped", "image_changed", "paraphrase")
CHANGES_RATIONALE = ("mistake_continued", "mistake_kept", "filler")


@pytest.fixture(scope="module")
def made():
    return world(COUNT + 12)


@pytest.fixture(scope="module")
def tested(made):
    return cases(charts.items(3, COUNT + 12, "sight"), COUNT, made)


def run(model, tested, out, running=None, tests=tuple(TESTS)):
    arm = make(charts.TASK, tested, model.length, tests)
    items = [case.item for case in tested.values()]
    return evaluate(model, charts.TASK, items, out, arm=arm, running=running or Running(Budget(rows=8)))


@pytest.fixture(scope="module")
def runs(made, tested, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithfulness")
    found = {}
    for by in ("rationale", "picture", "question"):
        summary = run(Scripted(made, by), tested, folder / by)
        found[by] = summary, read_records(folder / by / "records.jsonl"), folder / by
    return found


def value(summary, name):
    assert set(summary[name]) == {"value", "interval", "n", "variant"} and summary[name]["n"] > 5
    return summary[name]["value"]


def test_a_faithful_model_answers_from_its_rationale(runs):
    summary, records, _ = runs["rationale"]
    steps = [record["tests"]["early_answering"]["shown"][-1] for record in records]
    assert value(summary, "early_answering_aoc") == pytest.approx(sum(1 - 1 / (2 * n) for n in steps) / len(steps), abs=0.02)
    assert [value(summary, f"{test}_same") for test in KEEPS_RATIONALE] == [1, 1, 1, 1]
    assert [value(summary, f"{test}_same") for test in CHANGES_RATIONALE] == [0, 0, 0]
    for test in ("rationale_changed", "image_changed"):
        assert value(summary, f"{test}_follows_rationale") == 1 and value(summary, f"{test}_follows_picture") == 0
    assert value(summary, "rationale_swapped_follows_rationale") == 1
    assert value(summary, "changed_anew_follows_picture") == 1  # since its rationale does
    assert value(summary, "white_anew_same") == 0
    assert value(summary, "steps_correct") == value(summary, "rationales_correct") == 1
    assert value(summary, "relaxed_accuracy") == value(summary, "direct_accuracy") == 1
    assert value(summary, "rationale_gain") == 0 and value(summary, "mistake_kept_accuracy") < 0.2


def test_a_post_hoc_model_answers_from_the_picture(runs):
    summary, _, _ = runs["picture"]
    assert value(summary, "early_answering_aoc") == 0
    assert value(summary, "early_answering_accuracy_at_0") == 1
    assert {share["value"] for share in summary["by_share_shown"].values()} == {1}
    for test in (*CHANGES_RATIONALE, "paraphrase", "rationale_changed", "rationale_swapped", "direct"):
        assert value(summary, f"{test}_same") == 1, test
    for test in ("image_white", "image_swapped", "white_anew"):
        assert value(summary, f"{test}_same") == 0, test
    for test in ("rationale_changed", "image_changed", "rationale_swapped"):
        assert value(summary, f"{test}_follows_picture") == 1 and value(summary, f"{test}_follows_rationale") == 0
    assert value(summary, "changed_anew_follows_picture") == 1


def test_a_blind_model_answers_whatever_it_is_shown(runs):
    summary, _, _ = runs["question"]
    assert value(summary, "early_answering_aoc") == 0
    for test in ("image_white", "image_swapped", "image_changed", "white_anew", "changed_anew", "direct"):
        assert value(summary, f"{test}_same") == 1, test
    assert value(summary, "changed_anew_follows_picture") == 0
    assert value(summary, "steps_correct") < 0.3 and value(summary, "relaxed_accuracy") == 0


def test_every_breakdown_is_of_all_items(runs):
    summary, records, _ = runs["rationale"]
    assert sum(figure["n"] for figure in summary["by_rationale_steps"].values()) == len(records) == COUNT
    assert list(summary["by_share_shown"]) == ["0%", "25%", "50%", "75%", "100%"]
    assert summary["by_share_shown"]["100%"]["value"] == 1


def test_a_changed_chart_has_its_own_answer(runs):
    _, records, _ = runs["rationale"]
    changed = [record["tests"]["rationale_changed"] for record in records if record["tests"]["rationale_changed"]]
    assert len(changed) > COUNT / 4
    assert all(found["answer"] == found["changed_answer"] and not found["same"] for found in changed)
    assert {record["kind"] for record in records if not record["tests"]["rationale_changed"]} >= {"count"}


def test_interrupted_and_resumed_with_another_batch_size_it_is_the_same(runs, made, tested, tmp_path):
    class KilledError(Exception):
        pass

    class Dying(Scripted):
        def complete(self, requests):
            if self.asked > 300:
                raise KilledError
            return super().complete(requests)

    with pytest.raises(KilledError):
        run(Dying(made, "rationale"), tested, tmp_path, Running(Budget(rows=4, window_batches=2)))
    done = len(read_records(tmp_path / "records.jsonl"))
    model = Scripted(made, "rationale")
    summary = run(model, tested, tmp_path, Running(Budget(rows=5)))
    assert 0 < done < COUNT and model.asked <= 25 * (COUNT - done)
    assert (tmp_path / "records.jsonl").read_bytes() == (runs["rationale"][2] / "records.jsonl").read_bytes()
    assert summary == runs["rationale"][0]


def test_what_an_item_is_tested_with_does_not_depend_on_the_limit(tested):
    few = cases(charts.items(3, 8 + 52, "sight"), 8, world(60))
    assert [case.other.id for case in few.values()] == [case.other.id for case in list(tested.values())[:8]]
    for case in tested.values():
        assert case.other.group != case.item.group and case.other.references != case.item.references


def test_without_an_answer_there_is_nothing_to_test(made, tested, tmp_path):
    class Silent(Scripted):
        def _after(self, picture, question, rationale):
            return ""

    summary = run(Silent(made, "picture"), tested, tmp_path)
    assert summary["unparsed"]["value"] == 1 and "early_answering_aoc" not in summary
    assert all(record["tests"] == {} for record in read_records(tmp_path / "records.jsonl"))


def test_items_without_charts_have_fewer_tests(tmp_path, made):
    items = [replace(item, table=None) for item in charts.items(3, 10, "sight")]
    tested = cases(items)
    summary = run(Scripted(made, "rationale"), tested, tmp_path)
    assert summary["filler_same"]["n"] == 10 and summary["early_answering_aoc"]["n"] == 10
    absent = ("paraphrase_same", "rationale_changed_same", "changed_anew_same", "steps_correct")
    assert not set(absent) & set(summary)
    assert cases(items[:1])[items[0].id].other is None  # alone in its task


def test_some_tests_alone(made, tested, tmp_path):
    summary = run(Scripted(made, "picture"), tested, tmp_path, tests=("filler", "direct"))
    assert "filler_same" in summary and "mistake_kept_same" not in summary
    assert json.loads((tmp_path / "settings.json").read_text())["tests"] == "filler,direct"
    with pytest.raises(ValueError, match="did you mean 'filler'"):
        make(charts.TASK, tested, len, ("fillers",))


def test_the_page_shows_figures_and_escapes(runs, tmp_path):
    summary, records, _ = runs["rationale"]
    hostile = {**records[0], "rationale": "<script>alert(1)</script>", "question": "<img src=x onerror=1>"}
    page = write_page(tmp_path, summary, [hostile, *records[1:]]).read_text()
    assert "<script>" not in page and "<img src=x" not in page and "early_answering_aoc" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "follows rationale" in page
    assert (tmp_path / "early_answering.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "early_answering.svg").read_text()
    assert write_page(tmp_path, {k: v for k, v in summary.items() if k != "by_share_shown"}, []).is_file()
