"""What converters share: the count of what was skipped, and careful reading of files from elsewhere.

Nothing outside the folders that the user named is read: a name may not lead out of them, nor a link. Rows come one at a time,
so that a file may be larger than memory; a picture's header is checked here, its pixels are decoded in training.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import PIL.Image

from datasets.convert.json_stream import list_values
from datasets.shards import MAX_SAMPLE
from vlm.image import FORMATS, MAX_PIXELS

MAX_IMAGE = 64 << 20  # bytes of one picture's file
MAX_LINE = 64 << 20  # characters of one line of JSON
EXAMPLES = 3  # named for each reason
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SPLITS = ("train", "val", "test")


@dataclass
class Skips:
    """How often something was left out, by reason, with the first cases by name."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """`example` may come from a hostile file: it is cut short, and what is not printable is left out."""
        self.counts[reason] += count
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append("".join(c if c.isprintable() else "�" for c in example[:200]))

    def summary(self) -> dict[str, dict]:
        return {reason: {"count": n, "examples": self.examples[reason]} for reason, n in sorted(self.counts.items())}


def filled(value: object) -> str | None:
    """The stripped text of a field; `None` where there is none."""
    return value.strip() or None if isinstance(value, str) else None


def inside(root: Path, name: str, folder: str = "") -> Path | None:
    """The file `name` in `folder` below `root`; `None` when there is none, or it leads elsewhere (absolute, `..`, a link)."""
    try:
        base = folder_inside(root, folder)
        path = (base / name).resolve() if base else None
        return path if base and path and path.is_relative_to(base) and path.is_file() else None
    except (ValueError, OSError, RuntimeError):  # a null byte, a name too long, a loop of links
        return None


def folder_inside(root: Path, folder: str) -> Path | None:
    """`folder` below `root`, resolved; `None` when there is none, or it leads elsewhere."""
    try:
        home = root.resolve()
        base = (home / folder).resolve()
        return base if base.is_relative_to(home) and base.is_dir() else None
    except (ValueError, OSError, RuntimeError):
        return None


def listed(src: Path, endings: str | tuple[str, ...], folder: str = "") -> list[Path]:
    """SRC itself where it is a file, else the files in `folder` below it with one of these endings, in the order of names."""
    if src.is_file():
        return [src]
    home = folder_inside(src, folder)
    paths = sorted(home.iterdir()) if home else []
    return [p for p in paths if p.name.endswith(endings) and p.name[0] != "." and inside(src, p.name, folder)]


def source_of(path: Path) -> str:
    """Name of the shards that a file's rows go to: the file's, up to its first dot."""
    return re.sub(r"[^\w-]+", "_", path.name.split(".")[0])


def root_of(src: Path, images: str | None = None) -> Path:
    """Where pictures are looked for: `--images`, or SRC, or the folder of the file SRC. `ValueError` where it is no folder."""
    root = Path(images) if images is not None else src if src.is_dir() else src.parent
    if not root.is_dir():
        raise ValueError(f"--images {root} is no folder")
    return root


def read_image(root: Path, name: object, skips: Skips, folders: Sequence[str] = ("",)) -> bytes | None:
    """A picture's bytes, from the first of `folders` below `root` that has it.

    `None`, counted, when it is missing, too large, or its file is damaged.
    """
    found = (inside(root, name, folder) for folder in folders) if isinstance(name, str) and name else ()
    path = next(filter(None, found), None)
    if path is None:
        skips.add("image missing", str(name)[:200])
        return None
    try:
        if path.stat().st_size <= MAX_IMAGE:
            return checked(path.read_bytes(), str(name), skips)
        skips.add("image too large", str(name))
    except OSError as error:
        skips.add("image unreadable", f"{name}: {error.strerror}")
    return None


def read_images(root: Path, names: Iterable[object], skips: Skips, folders: Sequence[str] = ("",)) -> list[bytes | None]:
    """`read_image` of each name. Raises `ValueError` when all together are more than a sample may hold."""
    images, room = [], MAX_SAMPLE
    for name in names:
        data = read_image(root, name, skips, folders)
        room -= len(data or b"")
        if room < 0:
            raise ValueError("sample too large")
        images.append(data)
    return images


def checked(data: bytes, name: str, skips: Skips) -> bytes | None:
    """`data` where it is a picture of reasonable size by its header; `None`, counted, otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are allowed here
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height <= MAX_PIXELS:
                    image.verify()
                    return data
        skips.add("image too large", name)
    except PIL.Image.DecompressionBombError:
        skips.add("image too large", name)
    except Exception:  # Pillow's parsers raise almost anything on a broken file
        skips.add("image broken", name)
    return None


def read_rows(path: Path, skips: Skips) -> Iterator[tuple[str, dict]]:
    """(`file:number`, row) of a .json list, or of .jsonl, also as .gz or .zip; rows that are no objects are counted.

    Raises `ValueError`, also in mid-file, where a .json file is no list.
    """
    rows = _json_lines(path, skips) if ".jsonl" in path.name else enumerate(list_values(path))
    for number, row in rows:
        where = f"{path.name}:{number}"
        if isinstance(row, dict):
            yield where, row
        elif row is not None:
            skips.add("row is no object", where)


def text_lines(path: Path, skips: Skips) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file, a .gz, or the first .jsonl in a .zip. A line over `MAX_LINE` is counted, not given."""
    number = 0
    try:
        with _open_text(path) as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    skips.add("line too long", f"{path.name}:{number}")
                    while line and not line.endswith("\n"):
                        line = file.readline(MAX_LINE)
                else:
                    yield number, line
                number += 1
    # a compressed file that was cut off or damaged; of zip also one with a password, or of a kind that cannot be read
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        skips.add("file cut off", f"{path.name}:{number}: {error}")


@contextlib.contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        if path.suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            name = next((n for n in archive.namelist() if n.endswith(".jsonl")), None)
            if name is None:
                raise zipfile.BadZipFile("no .jsonl in it")
            file: Any = stack.enter_context(archive.open(name))
        elif path.suffix == ".gz":
            file = stack.enter_context(gzip.open(path))
        else:
            file = stack.enter_context(path.open("rb"))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace"))


def _json_lines(path: Path, skips: Skips) -> Iterator[tuple[int, Any]]:
    """(number of the line, its value), `None` for a line that was counted as unreadable."""
    for number, line in text_lines(path, skips):
        if line.strip():
            yield number, _value(line, f"{path.name}:{number}", skips)


def _value(line: str, where: str, skips: Skips) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        skips.add("line is no JSON", where)
        return None
