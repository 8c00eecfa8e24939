"""One GGUF file, read safely: its fields, its table of tensors, and a tensor when it is asked for.

The format (ggml's docs/gguf.md): magic, version, counts, fields (key, type, value), table of tensors, then aligned data. Every
count and length is checked against what is left of the file before anything is read or allocated, which the `gguf` package's
reader does not do: there a damaged count is a loop of hours. The package unpacks the blocks of quantised tensors.

Numbers are little-endian; big-endian files, versions before 2 and models split over several files are refused.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_FIELDS, MAX_TENSORS, MAX_DIMS = 1 << 16, 1 << 20, 4
MAX_NAME = 512  # characters
MAX_STRING = 64 << 20  # bytes; the largest that is written holds a whole tokenizer.json
MAX_ARRAY = 1 << 22  # elements; the largest vocabularies have 300,000 tokens
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = (  # those that llama.cpp's K mixtures are made of: IQ4_NL stands in where a row is no multiple of 256
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
)

Value = int | float | bool | str | list


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the table."""

    shape: tuple[int, ...]  # slowest axis first, as in torch; the file has it the other way round
    kind: str  # one of TYPES
    offset: int  # bytes from the start of the file
    nbytes: int


class GGUFFile:
    """`fields` and `tensors` of the file at `path`; `read` unpacks one tensor.

    Raises `ValueError` in one line for a file that is damaged, cut short or of a kind that is not read, and `ImportError` with
    the install line where the package is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._gguf = Path(path), _package()
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path} is not a GGUF file: it does not begin with {MAGIC.decode()}")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._data, len(MAGIC), self.path)
        version = cursor.scalar("I")
        if version not in VERSIONS:
            endian = " (a big-endian file)" if int.from_bytes(struct.pack(">I", version), "little") in VERSIONS else ""
            raise ValueError(f"{path} is GGUF version {version}{endian}; versions {VERSIONS} are read, little-endian")
        num_tensors, num_fields = cursor.count("tensors", MAX_TENSORS, 24), cursor.count("fields", MAX_FIELDS, 13)
        self.fields = self._fields(cursor, num_fields)
        if self.fields.get("split.count", 1) != 1:
            raise ValueError(f"{path} is one part of {self.fields['split.count']}: join them with `llama-gguf-split --merge`")
        self.tensors = self._table(cursor, num_tensors)

    def _fields(self, cursor: _Cursor, count: int) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        for _ in range(count):
            key = cursor.name()
            if key in fields:
                raise ValueError(f"{self.path} has the field {key!r} twice")
            fields[key] = cursor.value(cursor.scalar("I"))
        return fields

    def _table(self, cursor: _Cursor, count: int) -> dict[str, TensorInfo]:
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"{self.path} has general.alignment {alignment!r}")
        rows = [self._row(cursor) for _ in range(count)]
        start = -(-cursor.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset, nbytes in rows:
            if name in tensors:
                raise ValueError(f"{self.path} has the tensor {name!r} twice")
            if start + offset + nbytes > len(self._data):
                raise ValueError(
                    f"{self.path} is cut short: tensor {name!r} ends at byte {start + offset + nbytes:,} of {len(self._data):,}"
                )
            tensors[name] = TensorInfo(shape, kind, start + offset, nbytes)
        if sum(t.nbytes for t in tensors.values()) > len(self._data):  # else a small file could ask for any memory
            raise ValueError(f"{self.path} has tensors that overlap")
        return tensors

    def _row(self, cursor: _Cursor) -> tuple[str, tuple[int, ...], str, int, int]:
        name, dims = cursor.name(), cursor.scalar("I")
        if not 1 <= dims <= MAX_DIMS:
            raise ValueError(f"{self.path}: tensor {name!r} has {dims} dimensions")
        shape = tuple(reversed([cursor.scalar("Q") for _ in range(dims)]))
        number, offset = cursor.scalar("I"), cursor.scalar("Q")
        try:
            kind = self._gguf.GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(f"{self.path}: tensor {name!r} is of the unknown type {number}") from None
        if kind.name not in TYPES:
            raise ValueError(f"{self.path}: tensor {name!r} is {kind.name}; read are {', '.join(TYPES)}")
        block, size = self._gguf.GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block:
            raise ValueError(f"{self.path}: tensor {name!r} of shape {shape} is not made of {kind.name} blocks of {block}")
        return name, shape, kind.name, offset, math.prod(shape) // block * size

    def read(self, name: str) -> np.ndarray:
        """The tensor in float32, of its table's shape; a view of the file where it is stored so."""
        info = self.tensors[name]
        kind = self._gguf.GGMLQuantizationType[info.kind]
        block, size = self._gguf.GGML_QUANT_SIZES[kind]
        packed = np.frombuffer(self._data, np.uint8, info.nbytes, info.offset)
        packed = packed.reshape(*info.shape[:-1], info.shape[-1] // block * size)
        return self._gguf.dequantize(packed, kind).reshape(info.shape)


class _Cursor:
    """A place in the file that moves as values are read, and never past the end."""

    def __init__(self, data: mmap.mmap, at: int, path: Path) -> None:
        self.data, self.at, self.path = data, at, path

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(
                f"{self.path} is cut short or damaged: {size:,} bytes wanted at byte {self.at:,} of {len(self.data):,}"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, code: str) -> Any:
        """A number by its code in the module struct."""
        code = f"<{code}"
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str, limit: int, min_bytes: int) -> int:
        """How many of `what` follow, each of `min_bytes` at least."""
        value: int = self.scalar("Q")
        if value > min(limit, (len(self.data) - self.at) // min_bytes):
            raise ValueError(f"{self.path} is damaged or cut short: it claims {value:,} {what}")
        return value

    def string(self) -> str:
        text = self.take(self.count("bytes of text", MAX_STRING, 1))
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} is damaged: the text before byte {self.at:,} is not UTF-8") from None

    def name(self) -> str:
        """A key or the name of a tensor: what messages repeat."""
        name = self.string()
        if len(name) > MAX_NAME or not name.isprintable():
            raise ValueError(f"{self.path} is damaged: no name before byte {self.at:,} but {name[:20]!a}")
        return name

    def value(self, kind: int) -> Value:
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.scalar("I"))
        raise ValueError(f"{self.path} is damaged: a field before byte {self.at:,} is of the unknown type {kind}")

    def array(self, kind: int) -> list:
        if kind == STRING:
            return [self.string() for _ in range(self.count("texts", MAX_ARRAY, 8))]
        if kind not in SCALARS:
            raise ValueError(
                f"{self.path}: an array before byte {self.at:,} is of type {kind}; arrays of numbers and texts are read"
            )
        size = struct.calcsize(f"<{SCALARS[kind]}")
        count = self.count("numbers", MAX_ARRAY, size)
        return list(struct.unpack(f"<{count}{SCALARS[kind]}", self.take(count * size)))


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ImportError('GGUF files need the package gguf: pip install "flamingo-moe[gguf]"') from None
    return gguf
