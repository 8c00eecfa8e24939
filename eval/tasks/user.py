"""Tasks from a file that the user names.

`--task receipts.yaml` declares a task over the layout of `custom`; nothing in it is run:

    metric: anls:rrc                  # required; the rest as in `Task`, with its defaults
    also: [exact_match]
    instruction: Answer with the amount alone.
    parser: number
    max_new_tokens: 12
    splits: [test, train]
    by: [kind]

`--task mine.py` is a Python file with a `TASK`, such as those beside this one. It is code, and is run: name one that you trust.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import yaml

from eval import metrics, parsing
from eval.cli import nearest
from eval.tasks import custom
from eval.tasks.base import Task, digest
from vlm.files import read_text

KINDS: dict[str, type] = {
    "name": str, "metric": str, "instruction": str, "parser": str, "about": str, "mean_of": str, "max_new_tokens": int,
    "splits": list, "by": list, "also": list,
}  # fmt: skip


def load(name: str) -> Task:
    """The task of a file. Raises `ValueError` naming the file and what is wrong with it."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"task {name}: there is no such file")
    task = _code(path) if path.suffix == ".py" else _declared(path)
    try:
        for label in task.metrics:
            metrics.get(label)
        parsing.get(task.parser)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return task


def _declared(path: Path) -> Task:
    try:
        given = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: a task is a mapping of `metric`, `instruction`, …")
    for key, value in given.items():
        _check(path, key if isinstance(key, str) else type(key).__name__, value)
    if "metric" not in given:
        raise ValueError(f"{path}: no `metric`")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return dataclasses.replace(custom.TASK, **({"name": path.stem, "about": ""} | fields))


def _check(path: Path, key: str, value: Any) -> None:
    if key not in KINDS:
        raise ValueError(f"{path}: {nearest('key of a task', key, KINDS)}")
    kind = KINDS[key]
    if isinstance(value, list):
        fits = kind is list and bool(value) and all(isinstance(one, str) for one in value)
    elif isinstance(value, str):
        fits = kind is str and (key != "name" or _is_name(value))
    else:
        fits = kind is int and type(value) is int and value > 0
    if not fits:
        what = {str: "a text", int: "a whole number above 0", list: "a list of texts"}[kind]
        # aliases make a short file's value endless: a collection is named, not shown
        given = repr(value[:80]) if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{path}: `{key}` is {what}, not {given}")


def _is_name(text: str) -> bool:
    """Fit for a folder of records."""
    return re.fullmatch(r"\w[\w.-]{0,63}", text) is not None


def _code(path: Path) -> Task:
    name = f"task_{path.stem}_{digest(str(path.resolve()))}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is anybody's code
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise ValueError(f"{path} defines no TASK of type eval.tasks.Task")
    return task
