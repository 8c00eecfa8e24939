"""docs/performance.md: its example runs, its commands' configurations are valid, the keys that it names are there."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

from train.config import RunConfig, StageConfig, read_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("'encoder'") == 2


def test_its_runs_have_configurations() -> None:
    lines = [shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    runs = [words[3:] for words in lines if words[2] == "train.fit"]
    assert len(runs) == 2
    for path, _, *overrides in runs:
        assert read_config(ROOT / path, overrides).run.dir


def test_it_names_keys_that_are_there() -> None:
    for kind, prefix in ((RunConfig, r"run\."), (StageConfig, r"stages\.NAME\.")):
        named = set(re.findall(rf"`{prefix}(\w+)", PAGE))
        assert named and named <= {f.name for f in dataclasses.fields(kind)}
