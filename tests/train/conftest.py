from __future__ import annotations

from pathlib import Path

import pytest
from train_runs import train


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run: to be compared with and copied, not changed."""
    return train(tmp_path_factory.mktemp("finished") / "run")
