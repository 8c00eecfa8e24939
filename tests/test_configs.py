"""Every shipped configuration loads, its model builds, and its sources are of kinds that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.build import build_source
from train.config import Config, read_config, to_yaml
from train.optim.groups import freeze, parameter_groups
from train.start import check_run
from vlm.model import VLM

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    return read_config(request.param)


def test_it_is_read_back_as_it_is(config: Config, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "c.yaml") == config


def test_its_model_builds_and_every_stage_has_something_to_learn(config: Config) -> None:
    with torch.device("meta"):
        model = VLM(config.model)
    for stage in config.stages:
        freeze(model, stage.train)
        groups = parameter_groups(model, stage.train, config.optim.lr, config.optim.weight_decay)
        assert {group["name"].partition("/")[0] for group in groups} == set(stage.train)
        assert config.steps(stage) > 1


def test_its_sources_open_or_say_in_one_line_what_is_not_there(config: Config) -> None:
    for spec in config.sources.values():
        plain = {key: value for key, value in spec.items() if key != "epochs"}
        try:
            assert len(build_source(plain, data_root=config.data_root)) > 0
        except ValueError as error:  # data to be converted first
            assert "no shards at data/" in str(error) and "\n" not in str(error)


def test_what_can_be_checked_before_training_is_right(config: Config) -> None:
    try:
        check_run(config)
    except ValueError as error:
        assert "no shards at data/" in str(error)


@pytest.mark.parametrize("name", ["tiny", "vlm", "chart"])
def test_the_promised_ones_are_there(name: str) -> None:
    assert name in [path.stem for path in CONFIGS]
