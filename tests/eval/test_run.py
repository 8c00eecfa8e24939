"""The command: several tasks, chosen samples, a cache, predictions that are scored later, and how each mistake ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import vlm
from eval import run as run_command
from eval import score as score_command
from eval.models.own import Own
from tests.eval.conftest import picture
from tests.eval.test_fewshot import noise
from vlm.command import status


@pytest.fixture(scope="module")
def run_dir(model_and_processor, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    vlm.save(run / "model", *model_and_processor)
    return run


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"id": f"a{i}", "image": f"{i % 3}.png", "question": f"Which {'x' * i}?", "answers": [str(i)]} for i in range(12)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(40 * i))
    return folder


@pytest.fixture
def command(run_dir, monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        run_command._model.cache_clear()
        monkeypatch.setattr(sys, "argv", ["eval.run", "--checkpoint", str(run_dir), *map(str, arguments)])
        code = status(run_command.main)
        return code, *capsys.readouterr()

    return run


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_every_figure_is_printed_with_its_variant(command, data, tmp_path):
    code, out, _ = command("--task", "custom", "--data", data, "--out", tmp_path / "out")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert code == 0 and lines["exact_match"].rstrip().endswith("ignore_case") and {"unparsed", "cut"} <= lines.keys()
    assert summary(tmp_path / "out")["exact_match"].keys() == {"value", "interval", "n", "variant"}


def test_several_tasks_are_written_one_by_one_and_one_that_fails_loses_no_other(command, data, tmp_path):
    out = tmp_path / "out"
    code, _, err = command("--task", "chartqa,custom", "--data", data, "--out", out)
    assert code == 2 and err.count("\n") == 1 and "1 of 2 tasks failed: chartqa: " in err
    assert summary(out / "custom")["exact_match"]["n"] == 12


def test_a_task_that_crashes_is_exit_code_1(command, data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_command.charts, "items", lambda *_: 1 / 0)
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="1"):
        command("--task", "charts,custom", "--cot", "none", "--data", data, "--out", out)
    assert summary(out / "custom")["exact_match"]["n"] == 12


def test_chosen_samples(command, data, tmp_path):
    out = tmp_path / "out"
    assert command("--task", "custom", "--data", data, "--sample-id", "a7,a2", "--out", out)[0] == 0
    assert [record["id"] for record in records(out)] == ["a7", "a2"]
    code, _, err = command("--task", "custom", "--data", data, "--sample-id", "a77")
    assert code == 2 and "unknown item of custom 'a77': did you mean 'a7'?" in err


def test_predictions_alone_are_scored_by_the_other_command(command, data, tmp_path, monkeypatch, capsys):
    whole, alone, scored = tmp_path / "whole", tmp_path / "alone", tmp_path / "scored.jsonl"
    command("--task", "custom", "--data", data, "--out", whole)
    assert command("--task", "custom", "--data", data, "--out", alone, "--predict-only")[0] == 0
    assert "exact_match" not in summary(alone) and "score" not in records(alone)[0]
    cases = str(alone / "records.jsonl")
    monkeypatch.setattr(sys, "argv", ["eval.score", "exact_match", cases, "--out", str(scored)])
    assert status(score_command.main) == 0
    found = json.loads(Path(f"{scored}.summary.json").read_text())
    assert found["exact_match"]["value"] == summary(whole)["exact_match"]["value"] and found["exact_match"]["n"] == 12


def test_a_cache_serves_another_evaluation_of_the_same_prompts(command, data, tmp_path, monkeypatch):
    asked = ("--task", "custom", "--data", data, "--cache", tmp_path / "cache", "--out")
    assert command(*asked, tmp_path / "a")[0] == 0
    monkeypatch.setattr(vlm.VLM, "generate", None)  # nothing is asked again
    assert command(*asked, tmp_path / "b")[0] == 0
    assert records(tmp_path / "a") == records(tmp_path / "b")
    (tmp_path / "cache" / "completions-1.sqlite").write_bytes(b"x" * 5000)
    code, _, err = command(*asked, tmp_path / "c")
    assert code == 2 and err.count("\n") == 1 and "completions-1.sqlite" in err


def test_sampling_is_a_setting_and_is_repeated_exactly(command, data, tmp_path):
    drawn = ("--task", "custom", "--data", data, "--temperature", "1", "--max-new-tokens", "5", "--out")
    command(*drawn, tmp_path / "a", "--batch-size", "1")
    command(*drawn, tmp_path / "b", "--seed", "0")
    command(*drawn, tmp_path / "c", "--seed", "1")
    assert records(tmp_path / "a") == records(tmp_path / "b") != records(tmp_path / "c")
    code, _, err = command(*drawn, tmp_path / "a", "--seed", "1")
    assert code == 2 and "seed was 0, now 1" in err
    assert command(*drawn, tmp_path / "a", "--seed", "1", "--replace")[0] == 0
    assert records(tmp_path / "a") == records(tmp_path / "c")


def test_a_missing_picture_is_shown_and_stops_nothing(command, data, tmp_path):
    (data / "1.png").unlink()
    code, out, _ = command("--task", "custom", "--data", data, "--out", tmp_path / "out")
    assert code == 0 and "4 items could not be asked, the first: " in out and "1.png" in out
    assert summary(tmp_path / "out")["exact_match"]["n"] == 8


def test_comparing_two_runs(command, data, tmp_path, monkeypatch, capsys):
    for name, more in (("a", ()), ("b", ("--blank",))):
        command("--task", "custom", "--data", data, "--out", tmp_path / name, *more)
    monkeypatch.setattr(sys, "argv", ["eval.run", "--compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert status(run_command.main) == 0
    assert json.loads(capsys.readouterr().out)["difference"]["n"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--task", "nothing"], "unknown task 'nothing'"), ([], "--task"), (["--task", "custom,"], "names with commas"),
     (["--task", "custom", "--batch-size", "0"], "a whole number above 0"),
     (["--task", "charts", "--data", "x"], "reads no --data"),
     (["--task", "custom", "--max-errors", "2"], "a share from 0 to 1"),
     (["--task", "custom", "--temperature", "nan"], "number of 0"),
     (["--task", "charts", "--device", "tpu9"], "--device 'tpu9'"), (["--task", "charts", "--cot", "deep"], "deep")],
)  # fmt: skip
def test_mistakes_are_one_line(command, capsys, arguments, message):
    try:
        code, _, err = command(*arguments)
        assert err.count("\n") == 1
    except SystemExit as end:
        code, err = end.code, capsys.readouterr().err
    assert code == 2 and message in err


def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command("--help")
    assert "python -m eval.run --checkpoint runs/vlm --task chartqa" in capsys.readouterr().out


@pytest.fixture
def shots(data) -> Path:
    """The folder with a split of examples, one of them without a picture that can be read; so is one evaluated item."""
    rows = [{"id": f"t{i}", "image": f"t{i}.png", "question": "Which?", "answers": ["1"], "rationale": "so"} for i in range(4)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(4):
        (data / f"t{i}.png").write_bytes(noise(i) if i else b"no picture")
    with (data / "test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "broken", "image": "b.png", "question": "Which?", "answers": ["1"]}) + "\n")
    (data / "b.png").write_bytes(b"none either")
    return data


def test_a_broken_picture_is_an_error_of_its_item_alone(command, shots, tmp_path, monkeypatch):
    monkeypatch.setattr(Own, "context_length", lambda self: 100_000)
    code, out, err = command("--task", "custom", "--data", shots, "--out", tmp_path / "out", "--shots", 2, "--support", "rices")
    assert code == 0, err
    assert "3 examples" in out and "1 with a picture that cannot be read" in out
    assert [record["id"] for record in records(tmp_path / "out") if "error" in record] == ["broken"]


@pytest.mark.parametrize(("arm", "room", "fits"), [("none", 0, True), ("single", 160, True), ("single", 1000, False)])
def test_a_prompt_needs_room_for_its_rationale(command, shots, tmp_path, monkeypatch, arm, room, fits):
    monkeypatch.setattr(Own, "context_length", lambda self: 600)
    for count in (0, 2):
        given = ("--shots", count, "--cot", arm, "--rationale-tokens", room, "--limit", 2, "--max-new-tokens", 2)
        code, _, err = command("--task", "custom", "--data", shots, "--out", tmp_path / f"out{count}", *given)
        assert ("the model was trained on 600" in err) is not fits
        assert code == (0 if fits or not count else 2)
