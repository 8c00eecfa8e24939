"""A self-contained model directory: `save` writes it, `load` reads it on a machine that has never seen the run.

    config.json            format version, shape of the model or decoder, special tokens, SHA-256 of the other files
    model.safetensors      weights; above a size in shards, model-00001-of-00003.safetensors, …, which
                           model.safetensors.index.json lists (Hugging Face's layout)
    tokenizer.json         Hugging Face tokenizers
    chat_template.jinja    where the model has one

A run directory is accepted too: its newest model is `RUN/model`. Nothing is unpickled. A model is built on the meta device and
its weights put in their places one by one, in their last type and on their last device: memory is taken once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from encoders import native_pixels
from encoders.weights import check_weights
from vlm.config import DecoderConfig, ModelConfig
from vlm.decoder import TextDecoder
from vlm.files import INDEX, MAX_SHARD_BYTES, SHARD, WEIGHTS, Weights, read_json, read_text, read_tokenizer, write_weights
from vlm.image import ImageTransform
from vlm.meta import on_meta
from vlm.model import VLM
from vlm.processor import IMAGE, Processor

FORMAT, READS = 2, (1, 2)  # format 1: one file of weights, no chat template, no decoder alone
SpecialTokens = dict[Literal["pad", "bos", "eos", "medium", "around", "template_bos"], str | None]
TOKENIZER, CONFIG, CHAT_TEMPLATE = "tokenizer.json", "config.json", "chat_template.jinja"
_OURS = re.compile(rf"{SHARD.pattern}|{re.escape(INDEX)}|{re.escape(TOKENIZER)}|{re.escape(CONFIG)}|{re.escape(CHAT_TEMPLATE)}")
SHAPES: dict[str, type] = {"model": ModelConfig, "decoder": DecoderConfig}  # key of config.json → what it holds


def save(
    directory: str | Path, model: VLM | TextDecoder, processor: Processor, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write the model directory, replacing one that is there only when the new one is whole. Weights keep their types.

    Raises `ValueError` for a directory that holds anything but a model.
    """
    directory = Path(directory).resolve()
    check_replaceable(directory, "sha256")
    fresh = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    write_weights(fresh, model.state_dict().items(), max_shard_bytes)
    processor.tokenizer.save(str(fresh / TOKENIZER))
    if processor.chat_template is not None:
        (fresh / CHAT_TEMPLATE).write_text(processor.chat_template, encoding="utf-8", newline="")
    config: dict[str, Any] = {
        "format": FORMAT,
        "model" if isinstance(model, VLM) else "decoder": dataclasses.asdict(_self_contained(model)),
        "special_tokens": processor.special,
        "sha256": _digests(sorted(fresh.iterdir())),
    }
    config["sha256"][CONFIG] = _config_digest(config)
    (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    _put_in_place(fresh, directory)


def _put_in_place(fresh: Path, directory: Path) -> None:
    """`fresh` becomes `directory`, with what else stands there (evaluations of the model before); killed between two steps, the
    old one is where `find` looks, and the next call takes along what is left."""
    old = _old(directory)
    if directory.exists():
        _take_along(old, directory)
        os.replace(directory, old)
    os.replace(fresh, directory)
    _take_along(old, directory)


def _take_along(old: Path, directory: Path) -> None:
    """Move out of `old` what is no part of its model and not in `directory`, and remove the rest."""
    for entry in old.iterdir() if old.is_dir() else ():
        if not (_OURS.fullmatch(entry.name) or (directory / entry.name).exists()):
            os.replace(entry, directory / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(directory: Path, key: str) -> None:
    """Raise `ValueError` unless `directory` is not there, is empty, or holds a model, known by `key` in its config.json."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    config = directory / CONFIG
    if not config.is_file() or key not in read_json(config):
        raise ValueError(f"{directory} is there and is not a model of the kind to be written: it is not replaced")


def _self_contained(model: VLM | TextDecoder) -> ModelConfig | DecoderConfig:
    """The shape with what the encoder's library knew by the tag of its weights, which `load` leaves out, and with the
    rotary positions that the decoder has now."""
    if not isinstance(model, VLM):
        return model.config
    return dataclasses.replace(model.config, encoder=model.encoder.config, decoder=model.decoder.config)


def load(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> tuple[Any, Processor]:
    """A run or model directory → model (`VLM`, or `TextDecoder` where that is all there is) in eval mode, and its processor.

    `dtype=None` keeps each weight as it is stored; buffers (a router's balance bias) always keep theirs. On the device `meta`
    no weight is read and the weights' hash is not checked: the shape is all there is. Raises `ValueError` in one line for a
    path without a model, another format, a damaged file, or weights that do not fit.
    """
    directory, device = find(path), torch.device(device)
    config = _read_config(directory)
    key = next(key for key in SHAPES if key in config)
    shape = _read_shape(SHAPES[key], config[key], directory / CONFIG)
    _check_digests(directory, config["sha256"], with_weights=device.type != "meta")
    processor = _read_processor(directory, shape, config)
    weights = Weights(directory)
    for file in weights.files:
        if file.name not in config["sha256"]:
            raise ValueError(f"{file} is not among the files whose SHA-256 {directory / CONFIG} gives")
    with on_meta():
        model: VLM | TextDecoder = VLM(shape) if isinstance(shape, ModelConfig) else TextDecoder(shape)
    outline = {name: weights.outline(name) for name in weights}
    check_weights(model, outline, weights.source)
    if device.type == "meta":
        model.load_state_dict(outline, assign=True)
        return (model if dtype is None else model.to(dtype)).eval(), processor
    _fill(model, weights, device, dtype)
    return model.eval(), processor


def _fill(model: VLM | TextDecoder, weights: Weights, device: torch.device, dtype: torch.dtype | None) -> None:
    """Put the weights into a model built on meta. A copy each, since a mapped file is neither aligned nor ours."""
    buffers = {name for name, _ in model.named_buffers()}
    filled = {name: weights[name].to(device, None if name in buffers else dtype, copy=True) for name in weights}
    weights.release()
    model.load_state_dict(filled, assign=True)
    if isinstance(model, VLM):
        for module in model.encoder.modules():  # tables that are computed are not among the weights
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(module, name, torch.empty_like(buffer, device=device))
        model.encoder.reset_buffers()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def build_processor(
    config: ModelConfig | DecoderConfig,
    tokenizer: Tokenizer,
    special_tokens: Mapping[str, str | None] | None = None,
    chat_template: str | None = None,
) -> Processor:
    """The processor that goes with a model's shape; a decoder alone has no pictures."""
    special: dict[str, Any] = dict(special_tokens or {})
    if isinstance(config, DecoderConfig):
        return Processor(tokenizer, None, **{**special, "medium": None}, chat_template=chat_template)
    interpolation = native_pixels(config.encoder).interpolation
    image = ImageTransform(config.encoder.image_size, config.image_mode, interpolation, backend=config.image_backend)
    return Processor(tokenizer, image, **special, chat_template=chat_template)


def with_medium(processor: Processor) -> Processor:
    """Of a model of text alone, the same vocabulary with a token for media behind it."""
    if processor.image_id is not None:
        return processor
    if processor.tokenizer.token_to_id(IMAGE) is None:
        processor.tokenizer.add_special_tokens([IMAGE])
    special: dict[str, Any] = {**processor.special, "medium": IMAGE}
    return Processor(processor.tokenizer, ImageTransform(1), **special, chat_template=processor.chat_template)


def find(path: str | Path) -> Path:
    """The model directory that `path` is or holds. Raises `ValueError` where there is none."""
    places = (Path(path), Path(path) / "model")
    for directory in (*places, *map(_old, places)):  # the old one: killed between the two renames of `save`
        if (directory / CONFIG).is_file() and any((directory / name).is_file() for name in (WEIGHTS, INDEX)):
            return directory
    if Path(path).suffix == ".gguf" or _is_published(Path(path)):
        raise ValueError(
            f"{path} is a published model: vlm.interop.load reads it, and `python -m vlm.interop import` makes it ours"
        )
    what = "has no finished stage yet" if (Path(path) / "config.yaml").is_file() else "is neither a run nor a model directory"
    raise ValueError(f"{path} {what}: no {WEIGHTS} there or in {Path(path) / 'model'}")


def _is_published(path: Path) -> bool:
    return (path / CONFIG).is_file() and "model_type" in read_json(path / CONFIG)


def _old(directory: Path) -> Path:
    """Where `save` keeps the model that it replaces until the new one is in its place."""
    return directory.parent / f".{directory.name}.old"


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = read_json(path)
        if "model_type" in config:
            raise ValueError("it is Hugging Face's; `python -m vlm.interop import` makes a model directory of it")
        version = config["format"]
        if not all(isinstance(config[key], dict) for key in ("special_tokens", "sha256")):
            raise TypeError("wrong layout")
        if sum(isinstance(config.get(key), dict) for key in SHAPES) != 1:
            raise TypeError(f"one of {', '.join(SHAPES)} is expected")
        TypeAdapter(SpecialTokens).validate_python(config["special_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model's config: {' '.join(repr(error).split())}") from None
    if version not in READS:
        raise ValueError(f"{path} has format {version!r}; this version reads formats {', '.join(map(str, READS))}")
    if version > 1 and config["sha256"].get(CONFIG) != _config_digest(config):
        raise ValueError(f"{path} is damaged or was edited: its SHA-256 is not the one it gives")
    return config


def _config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of what config.json says, but for this digest itself."""
    others = {name: digest for name, digest in config["sha256"].items() if name != CONFIG}
    return hashlib.sha256(json.dumps({**config, "sha256": others}, sort_keys=True).encode()).hexdigest()


def _read_shape(kind: type, plain: dict, source: Path) -> ModelConfig | DecoderConfig:
    """The shape without `pretrained`: the weights are here."""
    try:
        shape: ModelConfig | DecoderConfig = TypeAdapter(kind).validate_json(json.dumps(plain))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if isinstance(shape, DecoderConfig):
        return shape
    return dataclasses.replace(shape, encoder=dataclasses.replace(shape.encoder, pretrained=None))


def _read_processor(directory: Path, shape: ModelConfig | DecoderConfig, config: dict[str, Any]) -> Processor:
    template = None
    if CHAT_TEMPLATE in config["sha256"]:
        template = read_text(directory / CHAT_TEMPLATE)
    processor = build_processor(shape, read_tokenizer(directory / TOKENIZER), config["special_tokens"], template)
    size = (shape.decoder if isinstance(shape, ModelConfig) else shape).vocab_size
    if processor.vocab_size > size:
        raise ValueError(f"{directory / TOKENIZER} has {processor.vocab_size} tokens, the model {size}")
    return processor


def _check_digests(directory: Path, wanted: dict[str, str], *, with_weights: bool) -> None:
    """Raise `ValueError` for the first listed file that is not there as it was written. The tokenizer is always listed."""
    wanted = {name: digest for name, digest in wanted.items() if name != CONFIG}
    for name in wanted:
        if Path(name).name != name:
            raise ValueError(f"{directory / CONFIG} names the file {name!r}, which is not the name of a file beside it")
    names = [name for name in {TOKENIZER: None, **wanted} if with_weights or not name.endswith(".safetensors")]
    found = _digests(path for path in map(directory.joinpath, names) if path.is_file())
    for name in names:
        if name not in found or found[name] != wanted.get(name):
            raise ValueError(f"{directory / name} is missing or damaged: its SHA-256 is not the one in {CONFIG}")


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """File name → SHA-256, several files at a time."""
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip((path.name for path in paths), pool.map(_sha256, paths), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
