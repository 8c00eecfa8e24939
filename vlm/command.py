"""What all commands share: help that ends with a real example, and how they end. A user's mistake is one line and exit code 2,
Ctrl-C leaves what was done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser for `python -m module` whose help ends with a real example."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def printable(text: str) -> str:
    """Text fit for a terminal: control characters (escape sequences among them) become visible, line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def run(main: Callable[[], None], after_interrupt: str = "") -> None:
    """Run a command and exit with its `status`."""
    code = status(main, after_interrupt)
    if code:
        sys.exit(code)


def status(main: Callable[[], None], after_interrupt: str = "") -> int:
    """Run a command; returns 0 done, 2 a user's mistake (one line on standard error), 130 after Ctrl-C."""
    try:
        main()
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print(f"\ninterrupted{after_interrupt}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:  # not there, not allowed, name too long, disk full
        if error.filename is None and error.errno is None:
            raise  # not a file's: a library's own
        return _fail(f"{str(error.filename)[:300]}: {error.strerror}" if error.filename else str(error))
    return 0


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
