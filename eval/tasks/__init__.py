"""What is asked: a task is a small declaration, its items come from an official download (or a generator).

To make a new task, copy `docvqa.py`: where its rows are, what of a row is the question, and a `Task` naming the metric. Name
it in `MODULES`, or keep it in a file of your own and run `--task path/to/mine.py`; a folder of pictures and questions needs
no code (`custom`, or a YAML declaration: `user.py`). docs/tasks.md lists what there is.
"""

from __future__ import annotations

from importlib import import_module

from eval.cli import nearest
from eval.tasks.base import Item, MissingError, Picture, Task, digest

__all__ = ["MODULES", "Item", "MissingError", "Picture", "Task", "digest", "get", "names", "table"]

MODULES = (
    "charts", "charts_table", "chartqa", "opencqa", "plotqa", "scienceqa", "mathvista", "mmmu", "ai2d", "vqav2", "okvqa",
    "textvqa", "vizwiz", "docvqa", "gqa", "coco_caption", "pope", "amber", "hallusionbench", "mme", "nlvr", "custom",
)  # fmt: skip


def names() -> tuple[str, ...]:
    return MODULES


def get(name: str) -> Task:
    """Task by name, or from a file (`user.load`). Raises `ValueError` naming the nearest valid one."""
    if name in MODULES:
        return import_module(f"eval.tasks.{name}").TASK
    if name.endswith((".py", ".yaml", ".yml")):
        return import_module("eval.tasks.user").load(name)
    raise nearest("task", name, MODULES)


def table() -> str:
    """Every task, a line each: name, main metric, what it is, splits."""
    rows = [(task.name, task.metric, task.about, " ".join(task.splits)) for task in map(get, MODULES)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
