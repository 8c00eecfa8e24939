"""The fixtures of vlm's tests; what they are made of is in vlm_fakes."""

from __future__ import annotations

import pytest
import torch
from vlm_fakes import CONFIG, DOCUMENTS, build, byte_tokenizer

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
