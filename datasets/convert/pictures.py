"""Pictures that a set names: read from the folders that the user named and nowhere else, judged by their headers.

Pixels are decoded in training. What is not there is counted under its own reason: a name that leads out is a set's fault, a
link that does is often the user's own, whom `--images` helps.
"""

from __future__ import annotations

import io
import os.path
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import PIL.Image

from datasets.convert.common import UNREAD_PICTURES, Skips, inside, linked_out
from datasets.shards import MAX_SAMPLE
from vlm.image import FORMATS, MAX_PIXELS

MAX_IMAGE = 64 << 20  # bytes of one picture's file
MISSING, BEHIND_LINK = "missing", "behind a link that leads out"
ABSOLUTE, OUTSIDE = "named by an absolute path", "named by a path that leads out"
UNREAD = "image of a format that is not read"


def read_image(root: Path, name: object, skips: Skips, folders: Sequence[str] = ("",)) -> bytes | None:
    """A picture's bytes, from the first of `folders` below `root` that has it.

    `None`, counted, when it is missing, too large, or its file is damaged.
    """
    places = (inside(root, name, folder) for folder in folders) if isinstance(name, str) and name else ()
    path = next(filter(None, places), None)
    if path is None:
        skips.add(f"image {why_not(root, name, folders)}", str(name)[:200])
        return None
    try:
        if path.stat().st_size <= MAX_IMAGE:
            return checked(path.read_bytes(), str(name), skips)
        skips.add("image too large", str(name))
    except OSError as error:
        skips.add("image unreadable", f"{name}: {error.strerror}")
    return None


def why_not(root: Path, name: object, folders: Sequence[str] = ("",)) -> str:
    """Why there is no such file or folder below `root`, in words that follow the name of the thing."""
    if not isinstance(name, str) or not name:
        return MISSING
    if PurePosixPath(name).is_absolute():
        return ABSOLUTE
    if os.path.normpath(name).split("/")[0] == "..":
        return OUTSIDE
    return BEHIND_LINK if any(linked_out(root, name, folder) for folder in folders) else MISSING


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
        skips.add(UNREAD if name.lower().endswith(UNREAD_PICTURES) else "image broken", name)
    return None
