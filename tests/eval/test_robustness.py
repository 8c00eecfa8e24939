"""Answerers whose behaviour is known are given the figures that they deserve."""

import json
import sys

import pytest

import vlm
from datasets.charts.counterfactual import changed_item
from datasets.charts.held_out import held_out_items
from eval import cli, robustness
from eval.metrics.relaxed import pix2struct
from eval.robustness import default_names, evaluate_robustness, lines
from eval.tasks.charts import extraction_items, items


def asker(answer):
    """`answer(item, folder's name)` → what the model would say."""

    def ask(asked, folder):
        said = [answer(item, folder.name) for item in asked]
        return [
            {
                "id": i.id,
                "image": i.group,
                "references": list(i.references),
                "prediction": p,
                "score": 0.0 if p is None else pix2struct(p, i.references, {}),
                **i.tags,
            }
            for i, p in zip(asked, said, strict=True)
        ]

    return ask


def run(answer, tmp_path, **options):
    return evaluate_robustness(asker(answer), tmp_path, seed=3, count=60, profile="all", **options)


def test_one_that_sees_follows_and_loses_nothing(tmp_path):
    summary = run(lambda item, name: item.references[0], tmp_path)
    assert summary["clean"]["value"] == 1
    assert {name for name in summary if isinstance(summary[name], dict)} == {
        "clean", "colour", "size", "jpeg", "renderer", "data",
    }  # fmt: skip
    assert all(summary[name]["difference"]["value"] == 0 for name in ("colour", "size", "jpeg", "renderer"))
    assert summary["data"]["follows"]["value"] == 1 and summary["data"]["stays"]["value"] == 0
    assert summary == json.loads((tmp_path / "summary.json").read_text())


def test_one_that_knows_the_old_answers_stays(tmp_path):
    old = {item.id: item.references[0] for item in items(3, 60, "all")}
    summary = run(lambda item, name: old[item.id.removesuffix("-changed")], tmp_path, names=["data"])
    assert summary["data"]["stays"]["value"] == 1 and summary["data"]["unchanged"]["value"] == 1
    assert summary["data"]["follows"]["n"] > 30


def test_a_loss_under_jpeg_is_measured_on_pairs(tmp_path):
    wrong = {item.id for item in items(3, 60, "all")[::4]}
    summary = run(lambda i, name: None if name == "jpeg-10" and i.id in wrong else i.references[0], tmp_path, names=["jpeg:10"])
    figure = summary["jpeg:10"]["difference"]
    assert figure["value"] == -0.25 and figure["interval"][1] < 0 and figure["n"] == 60
    assert any("jpeg:10" in line and "-25.0" in line for line in lines(summary))


def test_followers_among_right_answers_alone(tmp_path):
    summary = run(lambda item, name: item.references[0] if item.tags["kind"] == "value" else "?", tmp_path, names=["data"])
    pairs = [chart for chart in held_out_items(3, 60, "all") if changed_item(chart)]
    assert summary["data"]["follows"]["n"] == len(pairs)
    assert summary["data"]["of_right"]["follows"]["n"] == sum(chart.kind == "value" for chart in pairs)
    assert summary["data"]["of_right"]["follows"]["value"] == 1


def test_perturbed_items_keep_ids_and_change_pictures():
    clean, other = items(1, 20, "all"), items(1, 20, "all", perturb="colour")
    assert [i.id for i in clean] == [i.id for i in other]
    assert all(a.images != b.images and a.references == b.references for a, b in zip(clean, other, strict=True))


def test_steps_are_a_tag_of_every_item():
    found = {item.tags["steps"] for item in items(0, 300, "all")}
    assert {"1", "2", "3", "7+"} <= found <= {*"123456", "7+"}


def test_extraction_items_ask_for_the_table():
    item = extraction_items(0, 8, "reading")[3]
    assert item.question == "Write the table." and item.references[0].startswith("title | ") and "\n" in item.references[0]


def test_fonts_belong_to_printed_charts():
    from datasets.charts.profile import make_profile

    assert "font" in default_names(make_profile("reading")) and "font" not in default_names(make_profile("all"))


def test_the_command_asks_a_model_and_refuses_mistakes_first(model_and_processor, tmp_path, monkeypatch, capsys):
    vlm.save(tmp_path, *model_and_processor)
    arguments = ["eval.robustness", "--checkpoint", str(tmp_path), "--limit", "4"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--perturb", "jpeg:20,data"])
    robustness.main()
    said = capsys.readouterr().out
    assert "data changed" in said and "jpeg:20" in said
    assert (tmp_path / "eval" / "robustness-limit4" / "jpeg-20" / "records.jsonl").is_file()
    for name, message in (("jpg", "did you mean 'jpeg'"), ("font", "prints none")):
        monkeypatch.setattr(sys, "argv", [*arguments, "--perturb", name])
        with pytest.raises(SystemExit) as stopped:
            cli.run(robustness.main)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1


def test_charts_that_could_not_be_asked_are_left_out_of_pairs(tmp_path):
    ask, broken = asker(lambda item, name: item.references[0]), {item.id for item in items(3, 60, "all")[:5]}

    def partly(asked, folder):
        rows = ask(asked, folder)
        return [{**row, "error": "refused"} if row["id"] in broken and row.pop("score") + 1 else row for row in rows]

    summary = evaluate_robustness(partly, tmp_path, seed=3, count=60, profile="all", names=["colour", "data"])
    assert summary["clean"]["n"] == 55 == summary["colour"]["difference"]["n"] and summary["data"]["follows"]["value"] == 1
    assert lines(summary)
