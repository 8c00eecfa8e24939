"""The whole of a run's evaluation with an untrained model: files, summary, table, report, and the commands that read them."""

from __future__ import annotations

import json
import sys

import pytest

import vlm
from eval import ask, detect
from eval import run as run_command
from eval.chart_suite import evaluate_charts, evaluate_tables
from eval.engine import Budget
from eval.evaluate import Running
from eval.hallucination import DETECTORS
from eval.hallucination.marking import Marking
from eval.report import write_report
from eval.table import format_run
from tests.eval.conftest import picture
from vlm import prompt
from vlm.sample import Image


@pytest.fixture(scope="module")
def run_dir(model_and_processor, tmp_path_factory):
    run = tmp_path_factory.mktemp("a run")
    vlm.save(run / "model", *model_and_processor)
    evaluate_charts(*model_and_processor, run / "eval" / "charts", seed=5, count=24, cot_count=8)
    evaluate_tables(*model_and_processor, run / "eval" / "tables-text", seed=5, count=6)
    rows = [f"text,{s},{s * 10},{name},{v}" for s in (1, 2) for name, v in (("train/loss", 2), ("gate/layer0/ffn", 0.25))]
    rows += [f"text,2,20,router/layer0/expert{e}_share,0.5" for e in (0, 1)]
    (run / "metrics.csv").write_text("\n".join(["stage,step,tokens,name,value", *rows, "text,3,3"]) + "\n")
    (run / "config.yaml").write_text("eval: {seed: 5, charts: 24, reasoned: 8, profile: {name: sight}}\n")
    return run


def test_summary_has_the_promised_form(run_dir):
    summary = json.loads((run_dir / "eval" / "charts" / "summary.json").read_text())
    figures = [summary[name] for name in ("accuracy", "accuracy_blank", "difference")]
    figures += [*summary["by_kind"].values(), *summary["by_type"].values(), *summary["hallucination"]["auroc"].values()]
    figures += [
        summary["chain_of_thought"][name] for name in ("direct", "single", "difference", "steps_correct", "unparsed_single")
    ]
    assert all(set(figure) == {"value", "interval", "n", "variant"} for figure in figures)
    assert summary["accuracy"]["n"] == 24 == sum(figure["n"] for figure in summary["by_kind"].values())
    assert summary["chain_of_thought"]["direct"]["n"] == 8
    assert set(summary["hallucination"]["auroc"]) == {"logprob", "pmi", "combined", "position"}


def test_records_of_every_arm_are_kept(run_dir):
    charts = run_dir / "eval" / "charts"
    counts = {arm: len((charts / arm / "records.jsonl").read_text().splitlines()) for arm in (".", "blank", "reason")}
    assert counts == {".": 24, "blank": 24, "reason": 8}
    row = json.loads((charts / "reason" / "tokens.jsonl").read_text().splitlines()[0])
    assert len(row["tokens"]) == len(row["wrong"]) == len(row["doubt"]["pmi"])


def test_the_gallery_shows_every_type(model_and_processor, tmp_path):
    evaluate_charts(*model_and_processor, tmp_path, count=120, cot_count=120)
    rows = json.loads((tmp_path / "gallery" / "gallery.json").read_text())
    assert len(rows) == 24 and len({row["type"] for row in rows}) == 5
    assert all(abs(sum(map(sum, row["map"])) - 1) < 1e-2 for row in rows)


def test_the_suite_is_deterministic(model_and_processor, run_dir, tmp_path):
    evaluate_charts(*model_and_processor, tmp_path, seed=5, count=24, cot_count=8, running=Running(Budget(5), replace=True))
    for name in ("summary.json", "records.jsonl", "reason/tokens.jsonl", "gallery/gallery.json"):
        assert (tmp_path / name).read_bytes() == (run_dir / "eval" / "charts" / name).read_bytes()


def test_a_suite_without_rationales_is_complete(model_and_processor, tmp_path):
    summary = evaluate_charts(*model_and_processor, tmp_path / "eval" / "charts", count=4, cot_count=0)
    assert summary["chain_of_thought"]["single"]["value"] is None
    assert "–" in format_run(tmp_path) and write_report(tmp_path).is_file()


def test_the_command_repeats_the_runs_own_evaluation_from_its_records(run_dir, monkeypatch, capsys):
    before = (run_dir / "eval" / "charts" / "summary.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["eval.run", "--checkpoint", str(run_dir), "--task", "charts"])
    monkeypatch.setattr(vlm.VLM, "generate", None)  # nothing is asked again
    run_command.main()
    assert (run_dir / "eval" / "charts" / "summary.json").read_bytes() == before
    assert "held-out charts" in capsys.readouterr().out


def test_the_command_runs_one_arm(run_dir, monkeypatch, capsys):
    arguments = ["eval.run", "--checkpoint", str(run_dir), "--task", "charts", "--cot", "single", "--blank", "--limit", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    run_command.main()
    summary = json.loads((run_dir / "eval" / "charts-single-blank-limit3" / "summary.json").read_text())
    assert summary["relaxed_accuracy"]["n"] == 3 and summary["cot"] == "single" and summary["blank"] is True


def test_the_table_shows_every_part(run_dir):
    table = format_run(run_dir)
    for part in (
        "with image",
        "blanked",
        "rationale first",
        "detection AUROC",
        "tables in words, after",
        "router",
        "layer0/ffn",
    ):
        assert part in table


TEXT = " red 12; the\n\nb\u00e4r "


@pytest.mark.parametrize("marking", [None, Marking(DETECTORS["logprob"], -1e9), Marking(DETECTORS["pmi"], 1e9)])
def test_ask_streams_whole_words(model_and_processor, monkeypatch, marking):
    model, processor = model_and_processor
    monkeypatch.setattr(model, "stream", lambda batch, **options: ((token, -1.0) for token in processor.tokenize(TEXT)))
    question = prompt.question([Image(picture(9))], "Which?")
    words = list(ask.answer(model, processor, question, marking))
    assert "".join(word for word, _ in words) == TEXT
    assert [word.rstrip() for word, _ in words if word.strip()] == [" red", " 12;", " the", "\n\nb\u00e4r"]
    assert {doubtful for word, doubtful in words if word.strip()} == {marking is not None and marking.threshold < 0}


def test_ask_prints_the_answer(run_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(picture(9))
    arguments = ["eval.ask", "--checkpoint", str(run_dir), str(tmp_path / "a.png"), "Which?", "--max-new-tokens", "8"]
    monkeypatch.setattr(sys, "argv", arguments)
    ask.main()
    assert capsys.readouterr().out.endswith("\n")


def test_ask_without_a_picture_is_the_text_model(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval.ask", "--checkpoint", str(run_dir), "Which?", "--max-new-tokens", "4", "--reason"])
    ask.main()
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(("data", "message"), [(b"no picture", r"a\.png: image cannot be decoded"), (None, r"a\.png")])
def test_ask_names_a_picture_that_cannot_be_read(run_dir, tmp_path, monkeypatch, data, message):
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(sys, "argv", ["eval.ask", "--checkpoint", str(run_dir), str(tmp_path / "a.png"), "Which?"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ask.main()


def test_a_forgotten_question_is_said(run_dir, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(picture(9))
    monkeypatch.setattr(sys, "argv", ["eval.ask", "--checkpoint", str(run_dir), str(tmp_path / "a.png")])
    with pytest.raises(ValueError, match="no question"):
        ask.main()


def test_control_characters_never_reach_the_terminal():
    assert ask.mark(" \x1b[2Jred\x07", True, colour=False) == " \\x1b[2Jred\\x07[?]"
    assert ask.mark(" red", True, colour=True) == " \x1b[4;33mred\x1b[0m"
    assert ask.mark(" red", False, colour=True) == " red"


def test_detect_prints_a_line_a_token(run_dir, model_and_processor, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(picture(9))
    monkeypatch.setattr(sys, "argv", ["eval.detect", "--checkpoint", str(run_dir), "--image", str(tmp_path / "a.png"), "red 7"])
    detect.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["token", "log", "p", "PMI", "logprob", "pmi", "combined"]
    assert len(lines) == 2 + len(model_and_processor[1].tokenize(" red 7"))
