"""FLOP, TFLOP/s and MFU of a run; its profile."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from train_runs import config, curve, metrics, train

from eval.curves import read_curves
from eval.speed_table import speed_tables
from train import speed
from train.speed import Meter, peak_tflops
from vlm.flops import PARTS, Load, flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA RTX A4000", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_that_of_the_named_chip(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


class Clock:
    """In the place of `time`: it stands until it is moved."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(speed, "time", found)
    return found


def totals(positions: int, tflop: int, images: int = 0) -> Counter[str]:
    counts = {"data/positions": positions, "data/images": images}
    return Counter({**counts, "flop/decoder": tflop * 10**12 // 4, "flop/encoder": tflop * 10**12 * 3 // 4})


def figures(tokens: float, images: float, tflops: float, wait: float) -> dict[str, float]:
    rates = {"speed/tokens_per_second": tokens, "speed/images_per_second": images, "speed/tflops": tflops}
    return rates | {"data/wait": wait}


def test_figures_are_of_the_steps_since_the_last_ones_without_what_was_no_training(clock: Clock) -> None:
    meter = Meter(peak=50.0)
    meter.start(totals(1000, 40), torch.device("cpu"), devices=2)
    clock.now += 4
    assert meter.read(totals(3000, 200, images=48), 1.0) == figures(500.0, 12.0, 20.0, wait=0.25) | {"speed/mfu": 0.4}
    clock.now += 1
    with meter.paused():
        clock.now += 1000
    clock.now += 1
    assert meter.read(totals(3600, 240, images=50), 0.0) == figures(300.0, 1.0, 10.0, wait=0.0) | {"speed/mfu": 0.2}


def test_without_a_known_peak_there_is_no_share_of_it(clock: Clock) -> None:
    meter = Meter()
    meter.start(totals(0, 0), torch.device("cpu"), devices=1)
    clock.now += 2
    assert meter.read(totals(8, 4), 2.0) == figures(4.0, 0.0, 2.0, wait=1.0)


def test_a_run_writes_the_arithmetic_of_its_data(finished: Path) -> None:
    text = {part: curve(finished, f"flop/{part}", "text") for part in PARTS}
    assert all(not any(text[part]) for part in ("encoder", "resampler", "fusion"))
    tokens = curve(finished, "data/tokens/code", "text")[-1] + curve(finished, "data/tokens/tables", "text")[-1]
    decoder = config(finished).model.decoder
    least, most = (flops(decoder, Load((length,)), ["decoder"])["decoder"] / length for length in (1, 128))
    assert tokens * least < text["decoder"][-1] < tokens * most
    images = curve(finished, "data/images", "tune")[-1]
    one = flops(config(finished).model, Load((1,), (1,)), config(finished).stages[2].train)
    assert curve(finished, "flop/encoder", "tune")[-1] == images * one["encoder"]
    assert curve(finished, "flop/resampler", "tune")[-1] == images * one["resampler"]


def test_speed_stands_in_a_file_of_its_own(finished: Path) -> None:
    assert not [name for *_, name, _ in metrics(finished) if name.startswith("speed/")]
    for stage, names in read_curves(finished, "speed.csv").items():
        assert set(names) == set(figures(0, 0, 0, 0)), stage
        assert all(value > 0 for name in ("tokens_per_second", "tflops") for value in names[f"speed/{name}"].values)
        assert all((value > 0) == (stage != "text") for value in names["speed/images_per_second"].values)
        assert all(0 < value < 1 for value in names["data/wait"].values)


def test_a_run_from_before_these_figures_goes_on(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = sorted((run / "checkpoints" / "2-tune").iterdir())[-1]
    shutil.rmtree(newest)
    (run / "speed.csv").unlink()
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if not row[3].startswith("flop/")]
    with (run / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    before = speed_tables(read_curves(run), read_curves(run, "speed.csv"))
    train(run)
    after = speed_tables(read_curves(run), read_curves(run, "speed.csv"))
    assert before == {} and list(after) == ["tune"]
    assert curve(run, "flop/head", "tune")[-1] == curve(finished, "flop/head", "tune")[-1]
    assert "<h2>Speed</h2>" in (run / "report.html").read_text()


def test_a_profile_is_of_that_many_steps(tmp_path: Path) -> None:
    train(tmp_path / "run", "run.profile=2", "budget_scale=0.33e-6", "run.peak_tflops=0.01")
    for stage in ("text", "tune"):
        folder = tmp_path / "run" / "profile" / stage
        events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
        assert len({e["name"] for e in events if str(e.get("name")).startswith("ProfilerStep#")}) == 2
        assert "aten::mm" in (folder / "table.txt").read_text()
    assert set(read_curves(tmp_path / "run", "speed.csv")["tune"]) == {*figures(0, 0, 0, 0), "speed/mfu"}


def test_a_stage_too_short_to_be_profiled_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "run.profile=2", "budget_scale=0.1e-6")
    assert "run.profile: text took" in capsys.readouterr().err
    assert not (tmp_path / "run" / "profile").exists()
