"""A self-contained model directory: `save` writes it, `load` reads it on a machine that has never seen the run.

    config.json         format version, model shape, special tokens, image mode, SHA-256 of the other files
    model.safetensors   weights
    tokenizer.json      Hugging Face tokenizers

A run directory is accepted too: its newest model is `RUN/model`. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from vlm.config import ModelConfig
from vlm.image import ImageTransform
from vlm.model import VLM
from vlm.processor import Processor

FORMAT = 1
SpecialTokens = dict[Literal["pad", "bos", "eos", "medium"], str | None]
WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"


def save(directory: str | Path, model: VLM, processor: Processor) -> None:
    """Write the model directory, replacing one that is there only when the new one is whole."""
    directory = Path(directory)
    fresh = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, fresh / WEIGHTS)
    processor.tokenizer.save(str(fresh / TOKENIZER))
    config = {
        "format": FORMAT,
        "model": dataclasses.asdict(model.config),
        "special_tokens": processor.special,
        "sha256": {name: _sha256(fresh / name) for name in (WEIGHTS, TOKENIZER)},
    }
    (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    old = _old(directory)
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(directory, old)
    os.replace(fresh, directory)
    shutil.rmtree(old, ignore_errors=True)


def load(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple[VLM, Processor]:
    """A run or model directory → model in eval mode, and its processor.

    Raises `ValueError` in one line for a path without a model, another format, a damaged file, or weights that do not fit.
    """
    directory = find(path)
    config = _read_config(directory)
    for name in (WEIGHTS, TOKENIZER):
        if not (directory / name).is_file() or _sha256(directory / name) != config["sha256"].get(name):
            raise ValueError(f"{directory / name} is missing or damaged: its SHA-256 is not the one in {CONFIG}")
    shape = _read_shape(config["model"], directory / CONFIG)
    processor = build_processor(shape, _read_tokenizer(directory / TOKENIZER), config["special_tokens"])
    if processor.vocab_size > shape.decoder.vocab_size:
        raise ValueError(f"{directory / TOKENIZER} has {processor.vocab_size} tokens, the model {shape.decoder.vocab_size}")
    try:
        weights = load_file(directory / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{directory / WEIGHTS} is not a safetensors file: {error}") from None
    with torch.device("meta"):
        check_weights(VLM(shape), weights, directory / WEIGHTS)  # before memory is taken for a shape that nothing fills
    model = VLM(shape)
    model.load_state_dict(weights)
    return model.to(device=device, dtype=dtype).eval(), processor


def build_processor(config: ModelConfig, tokenizer: Tokenizer, special_tokens: dict[str, str] | None = None) -> Processor:
    """The processor that goes with a model's shape."""
    return Processor(tokenizer, ImageTransform(config.encoder.image_size, config.image_mode), **(special_tokens or {}))


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Copy weights in. Raises as `check_weights`."""
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def check_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Raise `ValueError` naming what misses, is left over or differs in shape."""
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    left_over = sorted(weights.keys() - own.keys())
    differ = [
        f"{n} {tuple(weights[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": differ}
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in problems.items() if names)
        raise ValueError(f"{source} does not fit the model: {text}")


def find(path: str | Path) -> Path:
    """The model directory that `path` is or holds. Raises `ValueError` where there is none."""
    places = (Path(path), Path(path) / "model")
    for directory in (*places, *map(_old, places)):  # the old one: killed between the two renames of `save`
        if (directory / CONFIG).is_file() and (directory / WEIGHTS).is_file():
            return directory
    what = "has no finished stage yet" if (Path(path) / "config.yaml").is_file() else "is neither a run nor a model directory"
    raise ValueError(f"{path} {what}: no {WEIGHTS} there or in {Path(path) / 'model'}")


def _old(directory: Path) -> Path:
    """Where `save` keeps the model that it replaces until the new one is in its place."""
    return directory.parent / f".{directory.name}.old"


def _read_config(directory: Path) -> dict:
    try:
        config = json.loads((directory / CONFIG).read_text())
        version = config["format"]
        if not all(isinstance(config[key], dict) for key in ("model", "special_tokens", "sha256")):
            raise TypeError("wrong layout")
        TypeAdapter(SpecialTokens).validate_python(config["special_tokens"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(repr(error).split())
        raise ValueError(f"{directory / CONFIG} is not a model's config: {reason}") from None
    if version != FORMAT:
        raise ValueError(f"{directory / CONFIG} has format {version!r}; this version reads format {FORMAT}")
    return config


def _read_shape(model: dict, source: Path) -> ModelConfig:
    """The shape without `pretrained`: the weights are here."""
    try:
        shape = TypeAdapter(ModelConfig).validate_json(json.dumps(model))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return dataclasses.replace(shape, encoder=dataclasses.replace(shape.encoder, pretrained=None))


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
