"""Tasks that a user declares in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval import run, tasks
from tests.eval.conftest import picture


def declared(folder, text: str) -> str:
    (folder / "receipts.yaml").write_text(text)
    return str(folder / "receipts.yaml")


def test_a_declaration_is_a_task_over_a_folder(tmp_path):
    text = "metric: anls:rrc\nalso: [exact_match]\ninstruction: The amount alone.\nparser: number\nmax_new_tokens: 12"
    text += "\nsplits: [dev]\nby: [kind]"
    task = tasks.get(declared(tmp_path, text))
    assert (task.name, task.metrics, task.parser, task.max_new_tokens) == (
        "receipts",
        ("anls:rrc", "exact_match"),
        "number",
        12,
    )
    (tmp_path / "dev.jsonl").write_text(json.dumps({"question": "q", "answers": ["1.5"], "kind": "k"}))
    assert [item.references for item in task.items(tmp_path, None)] == [("1.5",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric: [", "is no YAML"),
        ("- 3", "a task is a mapping"),
        ("instruction: x", "no `metric`"),
        ("metrik: anls", "did you mean 'metric'"),
        ("metric: anlss", "did you mean 'anls'"),
        ("metric: 3", "`metric` is a text"),
        ("metric: anls\nmax_new_tokens: 0", "above 0"),
        ("metric: anls\nmax_new_tokens: true", "above 0"),
        ("metric: anls\nsplits: []", "a list of texts"),
        ("metric: anls\nname: ../x", "`name`"),
        ("metric: anls\nname: .hidden", "`name`"),
        ("metric: anls\nparser: lines", "did you mean 'line'"),
        ("metric: anls\nalso: [x]", "unknown metric"),
        ("metric: !!python/object/apply:os.system [true]", "is no YAML"),
        ("metric: anls\nload: x", "key of a task"),
        ("[" * 100_000, "is no YAML"),
        ("a: &a [x, x]\nmetric: [*a, *a]", "key of a task"),
        ("metric: [[[x]]]", "`metric` is a text, not list"),
    ],
)
def test_declarations_that_do_not_fit_are_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        tasks.get(declared(tmp_path, text))
    assert "receipts.yaml" in str(error.value) and "\n" not in str(error.value)


CODE = """
from eval.tasks import Item, Task

TASK = Task("mine", lambda data, split: (Item(str(i), "q", ("a",)) for i in range(3)), "exact_match")
"""


def test_a_python_file_is_a_task(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    assert len(tasks.get(str(tmp_path / "mine.py")).items(None, None)) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines no TASK"),
        ("TASK = 3", "defines no TASK"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("(", "SyntaxError"),
        (CODE.replace("exact_match", "exact"), "did you mean 'exact_match'"),
    ],
)
def test_python_files_without_a_task_are_named(code, message, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ValueError, match=rf"mine\.py.*{message}"):
        tasks.get(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("name", ["no.py", "no.yaml"])
def test_a_file_that_is_not_there(name):
    with pytest.raises(ValueError, match=f"task {name}: there is no such file"):
        tasks.get(name)


def test_code_in_a_data_folder_is_not_run(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "q", "answers": ["a"]}))
    for name in ("custom.py", "task.py", "__init__.py", "TASK.py"):
        (tmp_path / name).write_text("raise SystemExit('run')")
    assert len(tasks.get("custom").items(tmp_path, None)) == 1


def test_the_task_on_the_page_runs(tmp_path):
    page = Path("docs/tasks.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "receipts.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    rows = [json.loads(line) for line in re.search(r"```json\n(.*?)```", page, re.DOTALL)[1].splitlines()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(tasks.get(str(tmp_path / "receipts.yaml")).items(tmp_path, None)) == len(rows) == 2
    task = tasks.get(str(tmp_path / "mine.py"))
    with pytest.raises(ValueError, match=r"no val\.json in .*: download it from https://example\.org"):
        task.items(tmp_path, None)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(picture(1))
    (tmp_path / "val.json").write_text(json.dumps([{"id": 1, "question": "q", "answers": ["a"], "image": "a.png"}]))
    assert task.items(tmp_path, None)[0].pictures() == (picture(1),)


def test_the_command_lists_tasks_without_a_model(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["eval.run", "--task", "list"])
    run.main()
    assert capsys.readouterr().out.strip() == tasks.table()
    monkeypatch.setattr("sys.argv", ["eval.run", "--help"])
    with pytest.raises(SystemExit):
        run.main()
    shown = capsys.readouterr().out
    assert all(line in shown for line in tasks.table().splitlines())


def test_nested_aliases_are_refused_at_once(tmp_path):
    levels = [f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "metric: [&l0 [x], " + ", ".join(levels) + "]"
    with pytest.raises(ValueError, match="`metric` is a text, not list"):
        tasks.get(declared(tmp_path, text))
