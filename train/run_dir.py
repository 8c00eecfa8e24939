"""The run directory: what it holds, whether it belongs to this configuration, and where its training stands.

config.yaml       resolved, every default written
tokenizer.json    the run's vocabulary
processor.json    the names of its special tokens, and its chat template
checkpoints/      0-text/step-00001200/ … one folder a stage
model/            the newest finished stage, self-contained: what `vlm.load` reads
model_ema/        the same with the average of that stage's weights, in a run with `optim.ema`
metrics.csv, speed.csv, tensorboard/, eval/, profile/, report.html
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from encoders.base import Checked
from train import checkpoint
from train.config import Config, StageConfig, as_plain, check_config, differences, plain_yaml, to_yaml
from vlm.load import SpecialTokens

CONFIG = "config.yaml"
PROCESSOR = "processor.json"
LOCK = ".lock"

# What may change when a run goes on: budgets, and where and how it runs.
_FREE = ("init_from", "budget_scale", "eval.", "validation.every", "data_root")  # what files hold is checked with the data
_WHERE = ("dir", "accelerator", "devices", "num_nodes", "threads", "workers")
_HOW = (
    "deterministic",
    "compile",
    "activation_memory",
    "checkpoint_activations",
    "checkpoint_every",
    "keep",
    "log_every",
    "max_skipped",
    "peak_tflops",
    "profile",
)
_FREE_RUN = tuple(f"run.{name}" for name in (*_WHERE, *_HOW))


@dataclass(frozen=True)
class _Settings(Checked):
    """Of a vocabulary: what is not in tokenizer.json."""

    special_tokens: SpecialTokens
    chat_template: str | None


@dataclass(frozen=True)
class Position:
    """Where training stands: stage number, and its newest whole checkpoint (None: the stage has not begun)."""

    stage: int
    path: Path | None


class RunDirectory:
    """Nothing is written before `begin`: a mistake that is found until then leaves no trace."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self._held: TextIO | None = None

    def check(self) -> None:
        """Raises `ValueError` when the directory was made by another configuration, naming the keys that differ."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run.dir {self.path} is a file")
        file = self.path / CONFIG
        if not file.exists():
            if self.path.exists() and {found.name for found in self.path.iterdir()} - {_fresh(file).name, LOCK}:
                raise ValueError(f"run.dir {self.path} is not empty and holds no run: choose another")
            return
        begun = as_plain(check_config(plain_yaml(file), file))  # keys that are newer than the run have their defaults
        changed = [key for key in differences(begun, as_plain(self.config)) if not _free(key)]
        if "optim.kind" in changed:
            kinds = begun["optim"]["kind"], self.config.optim.kind
            raise ValueError(
                f"{self.path} was begun with optim.kind {kinds[0]!r}, not {kinds[1]!r}, whose moments are others: go on with "
                f"{kinds[0]!r}, or begin another run.dir with its weights alone (--init-from {self.path})"
            )
        if changed:
            raise ValueError(
                f"{self.path} holds a run of another configuration: {', '.join(changed[:6])} differ; choose another run.dir"
            )

    def begin(self, tokenizer: Tokenizer, settings: dict[str, Any] | None = None) -> None:
        """Write the configuration, and the vocabulary with its settings (`processor.json`) when there is none yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        _write(self.path / CONFIG, to_yaml(self.config))
        if not self.tokenizer.exists():
            if settings is not None:
                _write(self.path / PROCESSOR, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            _write(self.tokenizer, tokenizer.to_str())

    def _lock(self) -> None:
        """One process at a time, until this one ends however it ends."""
        self._held = (self.path / LOCK).open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{self.path} is being trained by another process") from None

    def release(self) -> None:
        """Let another process train here."""
        if self._held is not None:
            self._held.close()

    def settings(self) -> dict[str, Any]:
        """What `begin` wrote beside the vocabulary; nothing in a run from before it was written. Raises `ValueError`."""
        file = self.path / PROCESSOR
        if not file.exists():
            return {}
        try:
            return asdict(TypeAdapter(_Settings).validate_json(file.read_bytes()))
        except ValidationError as error:
            raise ValueError(f"{file} is damaged: {error.errors()[0]['msg']}") from None

    def origin(self) -> str | None:
        """The `init_from` that the run has begun with."""
        file = self.path / CONFIG
        return plain_yaml(file).get("init_from") if file.exists() else None

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def model_ema(self) -> Path:
        return self.path / "model_ema"

    def stage_dir(self, index: int) -> Path:
        return self.path / "checkpoints" / f"{index}-{self.config.stages[index].name}"

    def position(self) -> Position:
        """The last stage with a whole checkpoint; stages before it are closed."""
        for index in reversed(range(len(self.config.stages))):
            path = checkpoint.newest(self.stage_dir(index)) if self.stage_dir(index).is_dir() else None
            if path is not None:
                return Position(index, path)
        return Position(0, None)

    def changed_budgets(self, before: int) -> list[str]:
        """Closed stages, those before number `before`, whose budget is not what they were trained for."""
        found = []
        for index, stage in enumerate(self.config.stages[:before]):
            path = checkpoint.newest(self.stage_dir(index))
            if path is None or self.is_as_budgeted(path, stage):
                continue
            found.append(f"{stage.name} stays at its {checkpoint.step_of(path):,} steps: a later stage has begun")
        return found

    def is_as_budgeted(self, path: Path, stage: StageConfig) -> bool:
        return checkpoint.step_of(path) == self.config.steps(stage) or checkpoint.read_state(path)["used_up"]

    def is_finished(self, index: int, path: Path) -> bool:
        """Has this stage's checkpoint reached its budget, or the end of its data?"""
        steps = self.config.steps(self.config.stages[index])
        return checkpoint.step_of(path) >= steps or checkpoint.read_state(path)["used_up"]


def _fresh(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _write(file: Path, text: str) -> None:
    """All of it or nothing."""
    _fresh(file).write_text(text, encoding="utf-8")
    os.replace(_fresh(file), file)


def _free(key: str) -> bool:
    ends = {"stages": "tokens", "sources": "cache"}
    first, _, rest = key.partition(".")
    return (
        key.startswith(_FREE)
        or key in _FREE_RUN
        or (first in ends and rest.count(".") == 1 and rest.endswith(f".{ends[first]}"))
    )
