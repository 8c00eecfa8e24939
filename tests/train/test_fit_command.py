"""The command itself: one line and exit code 2 for a mistake, whatever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_runs import ROOT, SHORT, TINY, overrides

from eval import cli
from train import fit
from train.config import read_config
from train.module import VLMModule


def run(argv: list[str], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["train.fit", *argv])
    code = 0
    try:
        cli.run(fit.main, fit.AFTER_INTERRUPT)
    except SystemExit as leave:
        code = leave.code
    return code, *capfd.readouterr()


@pytest.mark.parametrize(
    "argv",
    [
        ["nowhere.yaml"],
        ["."],
        [TINY, "--set", "run.sed=1"],
        [TINY, "--set", "run.seed"],
        [TINY, "--set", "stages.align.tokens=-1"],
        [TINY, "--set", "sources.code={kind: shards, path: /no/such}", "run.dir={tmp}/run"],
        [TINY, "--init-from", "/no/such", "--set", "run.dir={tmp}/run"],
        [TINY, "--set", "run.dir={tmp}"],
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    argv: list[str], tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something").touch()
    code, out, err = run([a.replace("{tmp}", str(tmp_path)) for a in argv], capfd, monkeypatch)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err


def test_too_many_bad_steps_are_one_line_and_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = VLMModule.training_step
    monkeypatch.setattr(VLMModule, "training_step", lambda *a: step(*a) * float("nan"))
    code, _, err = run([TINY, "--set", *overrides(tmp_path / "run")], capfd, monkeypatch)
    assert code == 1
    assert [line for line in err.splitlines() if not line.startswith("WARNING: step ")] == [
        line for line in err.splitlines() if line.startswith("error: stage 'text' stopped at step")
    ]


def test_print_config_prints_all_and_does_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run([TINY, "--print-config", "--set", "run.seed=7"], capfd, monkeypatch)
    (tmp_path / "printed.yaml").write_text(out)
    printed = read_config(tmp_path / "printed.yaml")
    assert (code, err, printed.run.seed, printed.run.dir) == (0, "", 7, "runs/tiny")


def command(argv: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "train.fit", *argv],
        cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_a_whole_run_says_only_its_own_lines(tmp_path: Path) -> None:
    done = command([TINY, "--set", *SHORT, f"run.dir={tmp_path / 'run'}"], ROOT, OMP_NUM_THREADS="1")
    assert done.returncode == 0
    assert all(line.split(" ")[0].rstrip(":") in ("text", "align", "tune") for line in done.stderr.splitlines()), done.stderr
    assert str(tmp_path / "run" / "model") in done.stdout


def test_another_datasets_package_first_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise SystemExit('theirs was run')")
    done = command(["--help"], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert str(tmp_path) in last and "run from the repository root" in last and "theirs was run" not in done.stderr
