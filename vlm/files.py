"""Directories of others, read safely: JSON of bounded size, and safetensors in one file or in shards with an index.

Weights are a mapping from name to tensor that reads a tensor when it is asked for: shapes are known from the headers, so that
a file which does not fit is refused before memory is taken. Nothing is unpickled, and an index can only name files beside it.
Whatever is wrong is one `ValueError` line that names the file. Writing is the same layout back, shard by shard.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 4 << 20  # of a configuration; published ones have a few kB
MAX_INDEX_BYTES = 32 << 20  # of an index; 100,000 tensors take 10 MB
MAX_TOKENIZER_BYTES = 256 << 20  # the largest published ones have 35 MB
MAX_SHARD_BYTES = 2 << 30
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A UTF-8 file of bounded size. Raises `ValueError` for a longer one and for other bytes."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict:
    """The JSON object of a file. Raises `ValueError` for anything else, NaN and infinity included."""
    text = read_text(path, max_bytes)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping) -> None:
    """Write by renaming, so that a link at `path` is replaced and not followed."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_json`, of text."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises `ValueError` naming the file when it is not there, too large or broken."""
    text = read_text(path, MAX_TOKENIZER_BYTES)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer: {' '.join(str(error).split())[:300]}") from None


class Weights(Mapping[str, Tensor]):
    """The tensors of a model directory by name, each read when asked for, in the type that is stored.

    A tensor may be a view of the mapped file: copy what is to be kept, and `release` the maps now and then to keep memory low.
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises `ValueError` for a directory without safetensors, a missing or damaged shard, and an empty tensor."""
        self.directory = Path(directory)
        self._open: dict[Path, safe_open] = {}
        self._place, self.source = _places(self.directory)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for path in self.files:
            self._read_header(path)
        self.release()

    def _read_header(self, path: Path) -> None:
        with _safetensors_errors(path):
            file = self._file(path)
            held = set(file.keys())
            for name in (n for n, place in self._place.items() if place == path):
                if name not in held:
                    raise ValueError(f"{path} has no tensor {name!r}, which {INDEX} says it has")
                header = file.get_slice(name)
                self._shapes[name], self._dtypes[name] = tuple(header.get_shape()), header.get_dtype()
                if 0 in self._shapes[name]:  # no part of a model, and its other sides could be of any size
                    raise ValueError(f"{path}: tensor {name!r} of shape {self._shapes[name]} is empty")

    def _file(self, path: Path) -> safe_open:
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path]

    def __getitem__(self, name: str) -> Tensor:
        """Raises `ValueError` for whole numbers and packed types: quantised weights mean nothing by themselves."""
        path = self._place[name]
        self._dtype(name)
        with _safetensors_errors(path):
            return self._file(path).get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place

    @property
    def files(self) -> list[Path]:
        """The safetensors files that hold them."""
        return sorted(set(self._place.values()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the header: no tensor is read."""
        return self._shapes[name]

    def outline(self, name: str) -> Tensor:
        """A tensor of that shape and type on the device `meta`. Raises `ValueError` for a type that is not read."""
        return torch.empty(self._shapes[name], dtype=self._dtype(name), device="meta")

    def _dtype(self, name: str) -> torch.dtype:
        if self._dtypes[name] not in DTYPES:
            raise ValueError(f"{self._place[name]}: tensor {name!r} is {self._dtypes[name]}; {', '.join(DTYPES)} are read")
        return DTYPES[self._dtypes[name]]

    def release(self) -> None:
        """Let go of the mapped files; they are opened again as needed."""
        self._open.clear()


def write_weights(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, str]:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` (one tensor at least) and their index.

    `tensors` is walked once, one shard is held at a time, and weights that stood in `directory` go. Returns name → file.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes {max_shard_bytes} is not positive")
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, int]] = []
    for shard in _shards(tensors, max_shard_bytes):
        save_file(shard, _part(directory, len(shards)), metadata={"format": "pt"})
        _share(_part(directory, len(shards)))
        shards.append({name: t.nbytes for name, t in shard.items()})
        shard.clear()
    for old in (p for p in directory.iterdir() if SHARD.fullmatch(p.name) or p.name == INDEX):
        old.unlink()
    count = len(shards)
    files = [WEIGHTS if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for i, file in enumerate(files):
        os.replace(_part(directory, i), directory / file)
    placed = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    if count > 1:
        total = sum(size for shard in shards for size in shard.values())
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})
    return placed


def _share(path: Path) -> None:
    """The rights that any new file gets: safetensors gives its owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _part(directory: Path, index: int) -> Path:
    return directory / f".model-{index + 1:05}.new"


def _shards(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Consecutive tensors grouped by size; each alone in its memory, as safetensors wants it."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        tensor = tensor.detach().cpu().contiguous()
        shard[name] = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        size += tensor.nbytes
    yield shard


def _places(directory: Path) -> tuple[dict[str, Path], Path]:
    """Tensor name → file, and the file that says so."""
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory")
    single, index = directory / WEIGHTS, directory / INDEX
    if single.is_file():
        with _safetensors_errors(single):
            return dict.fromkeys(safe_open(single, framework="pt").keys(), single), single
    if index.is_file():
        weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index} has no mapping weight_map")
        return {name: _shard(index, file) for name, file in weight_map.items()}, index
    pickles = sorted(p.name for pattern in PICKLES for p in directory.glob(pattern))
    if pickles:
        raise ValueError(f"{directory / pickles[0]} is a pickle, which can run code: convert it to {WEIGHTS} first")
    raise ValueError(f"{directory} has neither {WEIGHTS} nor {INDEX}")


def _shard(index: Path, file: object) -> Path:
    if not isinstance(file, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", file):
        raise ValueError(f"{index} names the shard {file!r}, which is not the name of a safetensors file beside it")
    path = index.parent / file
    if not path.is_file():
        raise ValueError(f"{index} names the shard {file}, which is not there")
    return path


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


@contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {' '.join(str(error).split())}") from None
