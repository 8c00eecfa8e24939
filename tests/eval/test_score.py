"""The scoring command: rows in, rows and summary out, one line for what cannot be read."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from eval import score


def run(monkeypatch, *args: str, stdin: str = "") -> None:
    monkeypatch.setattr(sys, "argv", ["eval.score", *args])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    score.main()


ROWS = [
    {"prediction": "3", "references": "3", "id": 7},
    {"prediction": "4", "label": "8"},
    {"prediction": "x", "answers": ["y", "X"]},
]


def test_rows_come_back_with_scores_and_a_summary(tmp_path, monkeypatch, capsys):
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    run(monkeypatch, "relaxed_accuracy", str(cases), "--out", str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == [{**row, "score": s} for row, s in zip(ROWS, (1.0, 0.0, 1.0), strict=True)]
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert summary["relaxed_accuracy"]["variant"] == "pix2struct" and summary["relaxed_accuracy"]["n"] == 3
    assert json.loads(capsys.readouterr().err) == summary


def test_standard_input_and_output(monkeypatch, capsys):
    run(monkeypatch, "exact_match", "-", stdin=json.dumps(ROWS[0]))
    assert json.loads(capsys.readouterr().out)["score"] == 1.0


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "null", '{"references": "a"}', '{"prediction": 3, "references": "a"}', '{"prediction": "a"}',
     '{"prediction": "a", "references": []}', '{"prediction": "a", "references": [1]}', "[" * 100_000],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(line, monkeypatch):
    good = json.dumps(ROWS[0])
    with pytest.raises(ValueError, match=r"^-:2: ") as error:
        run(monkeypatch, "exact_match", "-", stdin=f"{good}\n{line}\n")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_users_mistake_is_one_line_and_exit_code_2():
    done = subprocess.run([sys.executable, "-m", "eval.score", "relaxd_accuracy", "none.jsonl"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown metric 'relaxd_accuracy': did you mean 'relaxed_accuracy'?\n"


def test_a_file_may_be_scored_in_place_and_is_kept_on_a_mistake(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"prediction": "5", "references": ["5"]}) + "\n")
    command = [sys.executable, "-m", "eval.score", "relaxed_accuracy", str(path), "--out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(path.read_text())["score"] == 1
    before = path.read_text() + "not json\n"
    path.write_text(before)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and ":2: not JSON" in done.stderr and path.read_text() == before


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n"])
def test_files_without_rows_are_one_line_with_their_name(content, tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content)
    done = subprocess.run([sys.executable, "-m", "eval.score", "relaxed_accuracy", str(path)], capture_output=True, text=True)
    assert done.returncode == 2 and str(path) in done.stderr and len(done.stderr.splitlines()) == 1
