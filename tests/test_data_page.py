"""docs/data.md: its example runs, its commands have the options that they name."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from datasets.convert import CONVERTERS
from datasets.show.__main__ import _parser

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_example_of_a_resume_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_commands_name_what_is_there() -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    shown = [shlex.split(line)[3:] for line in lines if line.startswith("python -m datasets.show ")]
    converted = [shlex.split(line)[3] for line in lines if line.startswith("python -m datasets.convert ")]
    assert len(shown) == 3 and all(_parser().parse_args(words) for words in shown)
    assert set(converted) <= set(CONVERTERS) and converted
