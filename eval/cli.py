"""What the commands of this folder share: a user's mistake is one line and exit code 2, Ctrl-C leaves what was done,
progress is a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import PIL.Image
import torch
from tqdm import tqdm

from vlm.command import parser, printable, run
from vlm.image import open_image

__all__ = ["Progress", "device", "nearest", "parser", "printable", "read_picture", "run"]


def nearest(what: str, value: str, valid: Iterable[str]) -> ValueError:
    """The error for a misspelt name, with the nearest valid one."""
    valid = sorted(valid)
    close = difflib.get_close_matches(value, valid, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(valid)}"
    return ValueError(f"unknown {what} {value!r}: {hint}")


def device(name: str) -> torch.device:
    """Raises `ValueError` for a device that this machine does not have."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used: {str(error).splitlines()[0]}") from None


def read_picture(path: Path) -> PIL.Image.Image:
    """Raises `ValueError` or `OSError` naming the file."""
    try:
        return open_image(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class Progress:
    """Items done so far: a bar on a terminal, a plain line every `SECONDS` otherwise."""

    SECONDS = 10.0

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.bar = tqdm(total=total, desc=what, leave=False) if sys.stderr.isatty() else None
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def update(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.done and time.monotonic() - self.printed > self.SECONDS:
            self.printed = time.monotonic()
            left = (self.printed - self.started) / self.done * (self.total - self.done)
            print(f"{self.what}: {self.done}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
