"""Where the files of a download lie: releases are unpacked in more than one way."""

from __future__ import annotations

from pathlib import Path

from eval.tasks.base import MissingError


def found(data: Path, *names: str) -> Path | None:
    """The first of these files that is there."""
    return next((path for name in names if (path := data / name).is_file()), None)


def file(data: Path, *names: str) -> Path:
    """The first of these files that is there. Raises `MissingError` for none."""
    path = found(data, *names)
    if path is None:
        raise MissingError(_missing(data, names))
    return path


def folder(data: Path, *names: str) -> Path:
    """The first of these folders that is there, resolved: one that is linked in stands for what it leads to; nothing in it may
    lead out of it. Raises `MissingError` for none."""
    path = next((path for name in names if (path := data / name).is_dir()), None)
    if path is None:
        raise MissingError(_missing(data, [f"{name}/" for name in names]))
    return path.resolve()


def _missing(data: Path, names: tuple[str, ...] | list[str]) -> str:
    return f"no {' or '.join(names)} in {data}" if data.is_dir() else f"{data} is no folder"
