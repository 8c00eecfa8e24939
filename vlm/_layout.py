"""Is `datasets` ours? A widely used package has the same name, and from another working directory it may come first."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def check_datasets_package() -> None:
    """Raise `ImportError` with one line when `import datasets` would find another package. Nothing is imported to find out."""
    ours = Path(__file__).resolve().parent.parent / "datasets"
    spec = importlib.util.find_spec("datasets")
    if spec is None:
        raise ImportError("this project's package 'datasets' is not found: run from the repository root")
    folders = list(spec.submodule_search_locations or [])  # none: a single file datasets.py
    found = Path(folders[0] if folders else str(spec.origin)).resolve()
    if found != ours:
        raise ImportError(f"this project's package 'datasets' is hidden by {found}: run from the repository root")
