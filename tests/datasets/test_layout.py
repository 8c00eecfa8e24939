"""`datasets` is also another package's name: ours wins from the repository root, and elsewhere one line says what happened."""

import subprocess
import sys
from pathlib import Path

import pytest

import datasets

ROOT = Path(datasets.__file__).resolve().parent.parent


@pytest.fixture
def foreign(tmp_path):
    """A folder with another `datasets`, which must not be run."""
    package = tmp_path / "elsewhere" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('imported the foreign package')\n")
    return package


def run(code, cwd, *path):
    paths = ";".join(f"sys.path.insert({i}, {str(p)!r})" for i, p in enumerate(path))
    script = f"import sys; sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]; {paths}\n{code}"
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("package", ["train", "eval"])
def test_a_foreign_package_in_front_is_one_clear_line(foreign, package):
    done = run(f"import {package}", foreign.parent, foreign.parent, ROOT)
    assert done.returncode == 1 and "imported the foreign" not in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: this project's package 'datasets' is hidden by {foreign}: run from the repository root"


def test_ours_in_front_wins(foreign):
    done = run("import train, eval, datasets; print(datasets.__file__)", ROOT, ROOT, foreign.parent)
    assert done.stdout.strip() == str(ROOT / "datasets" / "__init__.py"), done.stderr


def test_a_module_file_and_a_bare_folder_hide_it_too(tmp_path):
    (tmp_path / "datasets.py").write_text("raise SystemExit('run')\n")
    done = run("import train", tmp_path, tmp_path, ROOT)
    assert f"hidden by {tmp_path / 'datasets.py'}" in done.stderr
