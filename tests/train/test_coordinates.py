"""The coordinate check: flat with rates by width, not without, for both optimizers."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from train_runs import TINY

from train.config import read_config
from train.coordinates import FLAT, changes, coordinates, main, slopes, write
from vlm.command import status

WIDTHS = (64, 128, 256)
FALLING = ("router", "logits", "experts")  # at first, by what routers and head start with
KINDS = {"encoder", "resampler", "gated", "attention", "experts", "router", "router_learned", "logits", "logits_learned"}


def slopes_of(kind: str, base_width: int | None) -> dict[str, float]:
    config = read_config(TINY, [f"optim.kind={kind}", f"optim.base_width={base_width or 'null'}"])
    return slopes(changes(list(coordinates(config, WIDTHS, 5, torch.device("cpu"), seeds=3))))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_changes_are_flat_with_a_base_width_alone(kind: str) -> None:
    flat, plain = slopes_of(kind, 64), slopes_of(kind, None)
    assert flat.keys() == plain.keys() == KINDS
    assert {name: slope for name, slope in flat.items() if abs(slope) > FLAT and name not in FALLING} == {}
    assert all(-0.6 < flat[name] < FLAT for name in FALLING)
    assert max(plain.values()) > 0.4 and sum(slope > FLAT for slope in plain.values()) >= 4
    for name in KINDS - {"encoder", "resampler", "gated"} if kind == "muon" else KINDS:
        assert plain[name] > flat[name] + 0.1, name


def test_slopes_are_those_of_the_last_step(tmp_path: Path) -> None:
    powers = {"a": 0.5, "b": -1.0}
    sizes = [(w, seed, step, kind) for kind in powers for w in WIDTHS for seed in (0, 1) for step in range(3)]
    rows = [(*of, 1.0, of[0] ** powers[of[3]] * of[2] * (1 + of[1])) for of in sizes]
    assert slopes(changes(rows)) == pytest.approx(powers)
    write(rows, tmp_path / "out")
    with (tmp_path / "out" / "coordinates.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (tmp_path / "out" / "coordinates.png").stat().st_size > 5000


def test_the_command_says_a_line_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([TINY, "--widths", "64", "32", "--steps", "1", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "slope" in line} == KINDS
    assert all(line.endswith(("flat", "grows", "falls")) for line in lines if "slope" in line)


def test_a_stage_of_text_alone_has_no_vision() -> None:
    config = read_config(TINY)
    stages = [stage for stage in config.stages if stage.name == "text"]
    rows = coordinates(dataclasses.replace(config, stages=stages), (32, 64), 1, torch.device("cpu"))
    assert "attention" in (kinds := {row[3] for row in rows}) and "gated" not in kinds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "64", "100"], "width 100 is not a whole number of the decoder's 2 heads; they go by 16"),
        (["--widths", "64"], "--widths takes two or more different widths"),
        (["--widths", "0", "64"], "--widths takes two or more different widths"),
        (["--steps", "0"], "--steps is at least 1"),
        (["--set", "optim.base_width=0"], "optim.base_width: input should be greater than or equal to 1"),
        (["--set", "optim.base_width=20"], "width 20 is not a whole number of the decoder's"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert status(lambda: main([TINY, *arguments, "--out", str(tmp_path / "out")])) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
