"""The fixtures of vlm's tests; what they are made of is in vlm_fakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from vlm_fakes import CONFIG, DOCUMENTS, build, byte_tokenizer

import vlm
from vlm import VLM, Batch, Processor
from vlm.load import build_processor


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def processor() -> Processor:
    return build_processor(CONFIG, byte_tokenizer())


@pytest.fixture
def model() -> VLM:
    return build()


@pytest.fixture
def mixed(processor) -> Batch:
    """Three packed rows: with and without images, and one padded."""
    d = [processor.encode(s) for s in DOCUMENTS]
    return processor.collate([[d[1], d[0], d[3]], [d[0], d[0]], [d[5], d[4]]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VLM]:
    """A model directory, not to be changed, and the model in it."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("saved") / "model"
    model = build()
    vlm.save(directory, model, build_processor(CONFIG, byte_tokenizer()))
    return directory, model


@pytest.fixture
def directory(saved: tuple[Path, VLM], tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(saved[0], tmp_path / "model")
