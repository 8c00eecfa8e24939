"""What the commands of this folder share: a user's mistake is one line and exit code 2, Ctrl-C leaves what was done,
progress is a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import PIL.Image
import torch
from tqdm import tqdm

from vlm.image import open_image


def parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser for `python -m module` whose help ends with a real example."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(main: Callable[[], None], after_interrupt: str = "") -> None:
    """Run a command and exit: 0 done, 2 a user's mistake (one line on standard error), 130 after Ctrl-C."""
    try:
        main()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        sys.exit(_fail(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    except ValueError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


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


def printable(text: str) -> str:
    """Text fit for a terminal: control characters (escape sequences among them) become visible, line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


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
        elif time.monotonic() - self.printed > self.SECONDS:
            self.printed = time.monotonic()
            left = (self.printed - self.started) / self.done * (self.total - self.done)
            print(f"{self.what}: {self.done}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
