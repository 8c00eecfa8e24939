"""Rows of parquet files as Hugging Face writes these: pictures inside, as a column of `bytes` and `path`.

The words of a row are read at once, a picture when it is asked for. A parquet file can only be decoded a group of rows at a
time (100 to 1,000 pictures), so a group's pictures go to a nameless temporary file (TMPDIR) when the first of them is asked
for, and each further one costs a read of its own bytes, in whatever order: memory stays that of a few pictures.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.convert.pictures import MAX_IMAGE
from eval.tasks.base import MissingError
from eval.tasks.rows import Row

BATCH = 256  # rows whose words are decoded at a time
PICTURES = 8  # pictures decoded at a time
MAX_BATCH = 1 << 30  # bytes of a batch
INSTALL = 'parquet files need pyarrow: pip install "flamingo-moe[parquet]"'


def files(data: Path, split: str, *folders: str) -> list[Path]:
    """`{split}-00000-of-00001.parquet`, `{split}.parquet` and their like in the first of `folders` that has any, in order."""
    name = re.compile(rf"{re.escape(split)}(-\d+-of-\d+(-[0-9a-f]+)?)?\.parquet")
    for folder in folders or ("", "data"):
        home = data / folder
        found = sorted(path for path in home.iterdir() if name.fullmatch(path.name)) if home.is_dir() else []
        if found:
            return found
    return []


def rows(paths: list[Path]) -> Iterator[Row]:
    """The rows of some files; a picture is a `PackedPicture`. Raises `ValueError` naming the file that cannot be read."""
    for path in paths:
        yield from _rows(path)


def wanted(paths: list[Path], what: str, data: Path) -> list[Path]:
    """`paths`. Raises `MissingError` for none."""
    if not paths:
        raise MissingError(f"no {what} in {data}")
    return paths


def _rows(path: Path) -> Iterator[Row]:
    file = _open(path)
    packed = Packed(path)
    fields = list(file.schema_arrow)
    images = [field.name for field in fields if _is_image(field.type)]
    words = [field.name for field in fields if not _holds_bytes(field.type)] + [f"{name}.path" for name in images]
    number = 0
    for group in range(file.num_row_groups):
        first = number
        for batch in _batches(path, file, group, words, BATCH):
            for data in batch.to_pylist():
                place = f"{path}:{number + 1}"
                for name in images:
                    data[name] = data.get(name) and PackedPicture(
                        packed, name, group, number - first, place, str(data[name]["path"] or f"{path.name}:{number + 1}")
                    )
                yield Row(place, data)
                number += 1


class Packed:
    """The pictures of one parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._spill: Any = None
        self._places: dict[tuple[str, int], list[tuple[int, int] | None]] = {}
        self._lock = threading.Lock()

    def read(self, column: str, group: int, index: int) -> bytes | None:
        """A picture's bytes; `None` where there are none, or too many for a picture."""
        with self._lock:
            places = self._places.get((column, group)) or self._unpack(column, group)
        place = places[index]
        return None if place is None else os.pread(self._spill.fileno(), place[1], place[0])

    def _unpack(self, column: str, group: int) -> list[tuple[int, int] | None]:
        self._file = self._file or _open(self.path)
        self._spill = self._spill or tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the items
        places: list[tuple[int, int] | None] = []
        for batch in _batches(self.path, self._file, group, [f"{column}.bytes"], PICTURES):
            for value in batch.column(0).field("bytes"):
                data = value.as_buffer()
                if data is None or data.size > MAX_IMAGE:
                    places.append(None)
                    continue
                places.append((self._spill.tell(), data.size))
                self._spill.write(data)
        self._spill.flush()
        self._places[column, group] = places
        return places


@dataclass(frozen=True, slots=True)
class PackedPicture:
    """The `index`-th picture of a row group."""

    packed: Packed
    column: str
    group: int
    index: int
    place: str
    name: str

    def read_bytes(self) -> bytes:
        """Raises `OSError` naming the row that holds none, and `ValueError` naming a file that cannot be read."""
        data = self.packed.read(self.column, self.group, self.index)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, f"`{self.column}` holds no picture of up to {MAX_IMAGE:,} bytes", self.place)
        return data


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: {INSTALL}") from None
    with _readable(path):
        return pyarrow.parquet.ParquetFile(path)


def _batches(path: Path, file: Any, group: int, columns: list[str], size: int) -> Iterator[Any]:
    with _readable(path):
        for batch in file.iter_batches(
            _fitting(file, group, columns, size), row_groups=[group], columns=columns, use_threads=False
        ):
            if batch.nbytes > MAX_BATCH:
                raise ValueError(f"{path}: {batch.num_rows} rows of {batch.nbytes:,} bytes, over {MAX_BATCH:,}")
            yield batch


def _fitting(file: Any, group: int, columns: list[str], size: int) -> int:
    """Rows, `size` at most, that stay below `MAX_BATCH` also where each holds all that its columns store (one long text that
    a dictionary repeats): what a batch would take is not known before it is decoded."""
    stored = file.metadata.row_group(group)
    parts = [stored.column(i) for i in range(stored.num_columns)]
    most = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.startswith(tuple(columns)))
    return max(1, min(size, MAX_BATCH // max(1, most)))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is no whole parquet file: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is no whole parquet file: {' '.join(str(error).split())[:200]}") from None


def _is_image(kind: Any) -> bool:
    import pyarrow

    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0 or kind.get_field_index("path") < 0:
        return False
    path = kind.field("path").type
    named = pyarrow.types.is_string(path) or pyarrow.types.is_large_string(path) or pyarrow.types.is_null(path)
    return named and _is_bytes(kind.field("bytes").type)


def _is_bytes(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _holds_bytes(kind: Any) -> bool:
    return _is_bytes(kind) or any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
