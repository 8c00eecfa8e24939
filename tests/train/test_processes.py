"""Two processes do what one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_runs import ROOT, TINY, curve, metrics, overrides, train

MIXED = [
    "budget_scale=1.3e-6",
    "stages.tune.mixture={charts: 1.0, tables: 4.0}",
    "validation.every=30",
    "run.checkpoint_every=40",
    "model.decoder.balance_bias_rate=1.0e-6",
    "optim.ema=0.99",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "train.fit", TINY, "--set"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [*command, *overrides(folder / "two", *MIXED)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
    )
    assert two.returncode == 0, two.stderr
    return train(folder / "one", *MIXED), folder / "two", two


def test_the_loss_curve_is_that_of_one_process(runs: tuple) -> None:
    one, two, _ = runs
    for stage in ("text", "align", "tune"):  # in tune, many rows have no picture
        assert len(curve(one, "train/loss", stage)) >= 50
        assert curve(two, "train/loss", stage) == pytest.approx(curve(one, "train/loss", stage), rel=1e-5)


def test_all_other_figures_too(runs: tuple) -> None:
    a, b = ({(s, n, name): v for s, n, _, name, v in metrics(run)} for run in runs[:2])
    assert a.keys() == b.keys()
    for key, value in a.items():
        exact = key[2].startswith(("data/", "epochs/"))  # else a few tokens at the edge between two experts
        assert b[key] == (value if exact else pytest.approx(value, rel=1e-3, abs=5e-3)), key


def test_the_routers_biases_go_by_the_load_of_both(runs: tuple) -> None:
    one, two = (load_file(run / "model" / "model.safetensors") for run in runs[:2])
    for name in (n for n in one if n.endswith("router.bias")):
        moves = 1e6 * (one[name] - two[name]).abs()  # of some hundred; one may differ by a token at the edge
        assert one[name].abs().max() > 5e-6 and moves.max() < 3 and (moves < 0.5).float().mean() >= 0.5, name


def test_the_average_of_the_weights_is_one_processs(runs: tuple) -> None:
    last, one, two = (
        load_file(run / name / "model.safetensors")
        for run, name in zip((runs[0], runs[0], runs[1]), ("model", "model_ema", "model_ema"), strict=True)
    )
    assert any(not torch.equal(one[name], last[name]) for name in one)
    for name in (n for n in one if not n.endswith("router.bias")):
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-2)


def test_each_line_is_said_once_and_nothing_else(runs: tuple) -> None:
    lines = [line for line in runs[2].stderr.splitlines() if line]
    assert len(lines) == len(set(lines))
    assert all(line.split()[0].rstrip(":") in ("text", "align", "tune") for line in lines), runs[2].stderr


def test_one_process_goes_on_where_two_stopped(runs: tuple, tmp_path: Path) -> None:
    one, two, _ = runs
    run = tmp_path / "run"
    shutil.copytree(two, run)
    shutil.rmtree(sorted((run / "checkpoints" / "2-tune").glob("step-*"))[-1])
    train(run, *MIXED)
    assert curve(run, "train/learnt") == curve(one, "train/learnt")  # the same rows in the same order
    assert curve(run, "train/loss") == pytest.approx(curve(one, "train/loss"), rel=1e-5)


def test_rows_that_cannot_be_shared_out_are_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 'tune': 4 rows cannot be shared evenly by 3 processes"):
        train(tmp_path / "run", "run.devices=3", "stages.text.rows=3", "stages.align.rows=3", "run.accelerator=cpu")
    assert not (tmp_path / "run").exists()


SICK = """
import os, signal
from torch.utils.data import get_worker_info
from vlm.sample import Sample, Text

class Sick:
    def __init__(self, name, how):
        self.name, self.how, self.calls = name, how, 0

    def __len__(self):
        return 1000

    def get(self, epoch, index):
        self.calls += 1
        if self.calls > 60 and os.environ.get("LOCAL_RANK") == "1":
            if self.how == "kill" and get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("source 'sick': the disk is gone")
        return Sample((Text(f"some prose, number {index}. " * 9),), str(index))
"""


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("raise", 2, "error: source 'sick': the disk is gone"),
        pytest.param("kill", 1, "error: a data worker has died", marks=pytest.mark.slow),
    ],
)
def test_what_one_rank_cannot_read_stops_all_in_one_line(how: str, code: int, line: str, tmp_path: Path) -> None:
    (tmp_path / "sick.py").write_text(SICK)
    sick = [f"sources.sick={{kind: 'sick:Sick', how: {how}}}", "stages.text.mixture={sick: 1.0}", "tokenizer.documents=20"]
    where = ["run.devices=2", "run.accelerator=cpu", "run.threads=1", f"run.workers={int(how == 'kill')}"]
    command = [
        sys.executable,
        "-m",
        "train.fit",
        TINY,
        "--set",
        *overrides(tmp_path / "run", *sick, *where, "budget_scale=5e-6"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)
    said = [found for found in done.stderr.splitlines() if found and not found.startswith("text: ")]
    assert done.returncode == code and len(said) == 1 and said[0].startswith(line), done.stderr
    assert len(curve(tmp_path / "run", "train/loss")) > 3  # all before it was trained
