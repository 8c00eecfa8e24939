"""Types of flags that commands of this folder share; each says in words what it wants."""

from __future__ import annotations

import argparse
import math


def names(text: str) -> tuple[str, ...]:
    """`a,b`, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f"names with commas between them, not {text!r}")
    return names


def positive(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 15 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


def number(text: str) -> float:
    """0 or more, finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"a number of 0 or more, not {text!r}")
    return value


def share(text: str) -> float:
    """From 0 to 1."""
    if number(text) > 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1, not {text!r}")
    return number(text)


def shard(text: str) -> tuple[int, int]:
    """`i/n`, i from 0."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"i/n with 0 <= i < n, not {text!r}")
    return int(index), int(count)
