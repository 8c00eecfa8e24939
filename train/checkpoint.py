"""Checkpoints that are either whole or not there.

    checkpoints/0-text/step-00001200/
        model.safetensors   weights, under the model's own names
        ema.safetensors     their average, of those that learn, in a run with `optim.ema`
        state.pt            optimizer, schedule, loops, data position; read with weights-only loading, so nothing in it can run
        manifest.json       size and SHA-256 of these: written last

A checkpoint is written beside its place and renamed into it. One that was cut short all the same (a full disk, a lost node)
does not agree with its manifest, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

WEIGHTS, AVERAGE, STATE, MANIFEST = "model.safetensors", "ema.safetensors", "state.pt", "manifest.json"
_NAMES = "step-" + 8 * "[0-9]"
_PREFIX = "model."  # of VLMModule's parameters


class SafeCheckpointIO(CheckpointIO):
    """Lightning's way to the files above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        fresh = path.with_name(f".{path.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        weights = {name.removeprefix(_PREFIX): t.contiguous() for name, t in checkpoint["state_dict"].items()}
        save_file(weights, fresh / WEIGHTS)
        average = checkpoint.get("average")
        if average is not None:
            save_file({name: t.contiguous() for name, t in average["weights"].items()}, fresh / AVERAGE)
            checkpoint = {**checkpoint, "average": {"steps": average["steps"]}}
        torch.save({key: value for key, value in checkpoint.items() if key != "state_dict"}, fresh / STATE)
        files = {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in sorted(fresh.iterdir())}
        (fresh / MANIFEST).write_text(json.dumps({"step": checkpoint["global_step"], "files": files}, indent=2))
        for file in fresh.iterdir():
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(fresh, path)
        _sync(path.parent)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(path)
        state = read_state(path)
        state["state_dict"] = {_PREFIX + name: t for name, t in load_file(path / WEIGHTS).items()}
        if "average" in state:
            state["average"]["weights"] = read_average(path)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """Everything but the weights."""
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def read_average(path: Path) -> dict[str, Tensor] | None:
    """The averaged weights of a checkpoint; `None` where its run keeps none."""
    return load_file(path / AVERAGE) if (path / AVERAGE).exists() else None


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def path_of(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def newest(directory: Path) -> Path | None:
    """The last whole checkpoint of a stage; damaged ones are said and passed over."""
    for path in sorted(directory.glob(_NAMES), key=step_of, reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s): using the one before it", path, problem)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or `None`."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name in (WEIGHTS, STATE, *({AVERAGE} & files.keys())):
            size = (path / name).stat().st_size
            if size != files[name]["size"]:
                return f"{name} has {size:,} bytes of {files[name]['size']:,}"
            if sha256(path / name) != files[name]["sha256"]:
                return f"{name} does not have its SHA-256"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_after(directory: Path, step: int) -> None:
    """Remove a stage's checkpoints later than `step`, the newest whole one: they are damaged, and the run makes them anew."""
    for path in directory.glob(_NAMES):
        if step_of(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def prune(directory: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints of a stage."""
    for path in sorted(directory.glob(_NAMES), key=step_of)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
