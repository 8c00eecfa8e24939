"""Models built without memory."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn
from vlm_fakes import CONFIG, build

from vlm import VLM
from vlm.meta import on_meta

FRESH = """
import sys, torch
from vlm import DecoderConfig, TextDecoder
from vlm.meta import on_meta
with on_meta():
    TextDecoder(DecoderConfig(num_layers=1))
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules
"""


def test_shapes_without_values():
    with on_meta():
        model = VLM(CONFIG)
    real = build().state_dict()
    assert {name: t.shape for name, t in model.state_dict().items()} == {name: t.shape for name, t in real.items()}
    assert all(t.is_meta for t in model.state_dict().values())


def test_nothing_is_drawn_and_only_meta_is_passed_over():
    state = torch.get_rng_state()
    with on_meta():
        nn.Linear(3, 3)
        here = nn.Parameter(torch.zeros(4, device="cpu"))
        assert torch.equal(torch.get_rng_state(), state)
        nn.init.normal_(here)
    assert here.abs().sum() > 0


def test_the_compiler_is_not_imported():
    """It takes seconds, and a model that is read from a file has no use for it."""
    subprocess.run([sys.executable, "-c", FRESH], check=True)
