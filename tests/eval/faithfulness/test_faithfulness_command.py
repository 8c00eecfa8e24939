"""The command, with an untrained model: files, resumption, and a user's mistakes in one line."""

from __future__ import annotations

import json
import sys

import pytest

import vlm
from eval import cli
from eval.faithfulness import __main__ as command
from eval.faithfulness.tests import TESTS
from tests.eval.conftest import picture


@pytest.fixture(scope="module")
def run_dir(model_and_processor, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    vlm.save(run / "model", *model_and_processor)
    (run / "config.yaml").write_text("eval: {seed: 5, charts: 24, reasoned: 8, profile: {name: sight}}\n")
    return run


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval.faithfulness", *map(str, arguments)])
    cli.run(command.main)


SHORT = ("--rationale-tokens", 12, "--max-new-tokens", 3)


def test_charts(run_dir, monkeypatch, capsys):
    call(monkeypatch, "--checkpoint", run_dir, "--task", "charts", "--limit", 4, *SHORT)
    out = run_dir / "eval" / "charts-faithfulness-limit4"
    assert {path.name for path in out.glob("[!.]*")} == {
        "records.jsonl",
        "report.html",
        "settings.json",
        "summary.json",
    }  # fmt: skip; without a step in what it writes there is no curve
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(records) == 4 and all(list(r["tests"]) in ([], list(TESTS)) for r in records)
    assert "filler_same" in capsys.readouterr().out
    before = (out / "records.jsonl").read_bytes()
    call(monkeypatch, "--checkpoint", run_dir, "--task", "charts", "--limit", 4, "--batch-size", 2, *SHORT)
    assert (out / "records.jsonl").read_bytes() == before


def test_shards_and_a_task_without_tables(run_dir, monkeypatch, capsys, tmp_path):
    rows = [{"image": f"{i}.png", "question": f"How many? {i}", "answers": [str(i)]} for i in range(5)]
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(picture(i * 40))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = ("--checkpoint", run_dir, "--task", "custom", "--data", tmp_path, "--tests", "filler,paraphrase", *SHORT)
    for shard in (0, 1):
        call(monkeypatch, *same, "--shard", f"{shard}/2", "--out", tmp_path / "parts")
        assert (tmp_path / "parts" / "report.html").is_file() == bool(shard)
    call(monkeypatch, *same, "--out", tmp_path / "whole")
    assert (tmp_path / "parts" / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()
    assert "left out: paraphrase" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "chartz"), "did you mean 'charts'"),
        (("--task", "charts", "--data", "x"), "reads no --data"),
        (("--task", "charts", "--tests", "fillers"), "did you mean 'filler'"),
        (("--task", "charts", "--convention", "ours"), "convention"),
        (("--task", "charts", "--device", "tpu9"), "--device 'tpu9'"),
        (("--task", "charts", "--limit", "0"), "--limit"),
        (("--task", "charts", "--tests", ","), "--tests"),
    ],
)
def test_mistakes_are_one_line(run_dir, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "--checkpoint", run_dir, *arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.strip().splitlines()[-1].count("error:") == 1


def test_other_settings_are_refused(run_dir, monkeypatch, capsys, tmp_path):
    same = ("--checkpoint", run_dir, "--task", "charts", "--limit", 2, "--out", tmp_path, *SHORT)
    call(monkeypatch, *same, "--tests", "filler")
    with pytest.raises(SystemExit):
        call(monkeypatch, *same, "--tests", "direct")
    assert "tests was 'filler', now 'direct'" in capsys.readouterr().err
