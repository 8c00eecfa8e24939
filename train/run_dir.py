"""The run directory: what it holds, whether it belongs to this configuration, and where its training stands.

    config.yaml       resolved, every default written
    tokenizer.json    the run's vocabulary
    checkpoints/      0-text/step-00001200/ … one folder a stage
    model/            the newest finished stage, self-contained: what `vlm.load` reads
    metrics.csv, tensorboard/, eval/, report.html
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from train import checkpoint
from train.config import Config, StageConfig, differences, to_yaml

# What may change when a run goes on: budgets, and where and how it runs.
_FREE = ("budget_scale", "eval.", "validation.every")
_FREE_RUN = ("run.dir", "run.accelerator", "run.devices", "run.num_nodes", "run.threads", "run.workers", "run.checkpoint_every")
_FREE_RUN += ("run.keep", "run.log_every")


@dataclass(frozen=True)
class Position:
    """Where training stands: stage number, and its newest whole checkpoint (None: the stage has not begun)."""

    stage: int
    path: Path | None


class RunDirectory:
    """Raises `ValueError` when the directory was made by another configuration, naming the keys that differ."""

    def __init__(self, path: Path, config: Config, writes: bool = True) -> None:
        self.path, self.config = path, config
        if path.exists() and not path.is_dir():
            raise ValueError(f"run.dir {path} is a file")
        self._check()
        if writes:
            path.mkdir(parents=True, exist_ok=True)
            fresh = path / ".config.yaml.new"
            fresh.write_text(to_yaml(config))
            os.replace(fresh, path / "config.yaml")

    def _check(self) -> None:
        file = self.path / "config.yaml"
        if not file.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise ValueError(f"run.dir {self.path} is not empty and holds no run: choose another")
            return
        try:
            old = yaml.safe_load(file.read_text())
        except yaml.YAMLError:
            old = None
        if not isinstance(old, dict):
            raise ValueError(f"{file} is not a run's configuration: choose another run.dir")
        changed = [key for key in differences(old, yaml.safe_load(to_yaml(self.config))) if not _free(key)]
        if changed:
            raise ValueError(
                f"{self.path} holds a run of another configuration: {', '.join(changed[:6])} differ; choose another run.dir"
            )

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def stage_dir(self, index: int) -> Path:
        return self.path / "checkpoints" / f"{index}-{self.config.stages[index].name}"

    def position(self) -> Position:
        """The last stage with a whole checkpoint; stages before it are closed."""
        for index in reversed(range(len(self.config.stages))):
            path = checkpoint.newest(self.stage_dir(index)) if self.stage_dir(index).is_dir() else None
            if path is not None:
                return Position(index, path)
        return Position(0, None)

    def is_finished(self, index: int, path: Path, stage: StageConfig) -> bool:
        """Has this stage's checkpoint reached its budget, or the end of its data?"""
        step = checkpoint.step_of(path)
        try:
            record = json.loads((self.stage_dir(index) / "finished").read_text())
            used_up = record["step"] == step and step < record["budget"]
        except (OSError, ValueError, KeyError):
            used_up = False
        return used_up or step >= self.config.steps(stage)


def _free(key: str) -> bool:
    return key.startswith(_FREE) or key in _FREE_RUN or (key.startswith("stages.") and key.endswith(".tokens"))
