"""What converters share: the count of what was skipped, and which files there are.

Nothing outside the folders that the user named is read: a name may not lead out of them, nor a link. What is left aside is
counted, whether it is a row, a link or a file of a kind that is not read; hidden files alone are not.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLES = 3  # named for each reason
PICTURE_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2",
)  # fmt: skip
UNREAD_PICTURES = (".avif", ".heic", ".heif", ".ico", ".svg", ".eps", ".psd", ".jxl", ".tga")
SPLITS = ("train", "val", "test")
LINK, LINK_OUT = "link, which is not followed", "link that leads out of SRC"
OTHER = "file of a kind that is not read"


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

    def lines(self) -> Iterator[str]:
        """As commands print it."""
        for reason, skipped in self.summary().items():
            yield f"skipped, {reason}: {skipped['count']:,} (such as {skipped['examples'][0]})"


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


def linked_out(root: Path, name: str, folder: str = "") -> bool:
    """Is there such a file or folder, though behind a link, and outside `root`? (A `name` with `..` is no link.)"""
    try:
        place = root / folder / name
        return (
            ".." not in place.relative_to(root).parts and place.exists() and not place.resolve().is_relative_to(root.resolve())
        )
    except (ValueError, OSError, RuntimeError):
        return False


def layout_file(root: Path, name: str, skips: Skips, folder: str = "") -> Path | None:
    """As `inside`, of a file that the layout names: one behind a link that leads out is counted."""
    path = inside(root, name, folder)
    if path is None and linked_out(root, name, folder):
        skips.add(LINK_OUT, f"{folder}/{name}" if folder else name)
    return path


def listed(src: Path, endings: str | tuple[str, ...], skips: Skips, folder: str = "") -> list[Path]:
    """SRC itself where it is a file, else the files in `folder` below it with one of these endings, in the order of names.

    Links that lead out of SRC are counted.
    """
    if src.is_file():
        return [src]
    home = folder_inside(src, folder)
    paths = sorted(home.iterdir()) if home else []
    named = [path for path in paths if path.name.endswith(endings) and path.name[0] != "."]
    return [path for path in named if layout_file(src, path.name, skips, folder)]


def walked(src: Path, skips: Skips) -> Iterator[Path]:
    """All files in the folder SRC and below it, folder by folder in the order of names. Links are counted and not followed."""
    for folder, subfolders, names in os.walk(src):
        links = {name for name in (*subfolders, *names) if name[0] != "." and Path(folder, name).is_symlink()}
        for name in sorted(links):
            skips.add(LINK, Path(folder, name).relative_to(src).as_posix())
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name not in links)
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] != "." and name not in links and path.is_file():
                yield path


def row_files(src: Path, endings: tuple[str, ...], skips: Skips) -> list[Path]:
    """As `listed`, of a folder of such files, with pictures at most among them: files of other kinds are counted."""
    known = (*endings, *PICTURE_ENDINGS, *UNREAD_PICTURES)
    for path in sorted(src.iterdir()) if src.is_dir() else ():
        if not path.name.lower().endswith(known) and path.name[0] != "." and path.is_file():
            skips.add(OTHER, path.name)
    return listed(src, endings, skips)


def source_of(path: Path) -> str:
    """Name of the shards that a file's rows go to: the file's, up to its first dot."""
    return re.sub(r"[^\w-]+", "_", path.name.split(".")[0])


def root_of(src: Path, images: str | None = None) -> Path:
    """Where pictures are looked for: `--images`, or SRC, or the folder of the file SRC. `ValueError` where it is no folder."""
    root = Path(images) if images is not None else src if src.is_dir() else src.parent
    if not root.is_dir():
        raise ValueError(f"--images {root} is no folder")
    return root
