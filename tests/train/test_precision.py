"""A run in each precision: what is cast, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_runs import curve, train

import vlm

SHORT = ("budget_scale=1.0e-7", "model.decoder.balance_bias_rate=0.001")


@pytest.mark.parametrize(("name", "kept"), [("bf16-true", torch.bfloat16), ("bf16-mixed", torch.float32)])
def test_a_run_in_bfloat16_trains_and_is_read_back(tmp_path: Path, name: str, kept: torch.dtype) -> None:
    train(tmp_path / "run", *SHORT, f"run.precision={name}")
    model, _ = vlm.load(tmp_path / "run", dtype=None)
    assert {p.dtype for p in model.parameters()} == {kept}
    assert {b.dtype for n, b in model.named_buffers() if n.endswith("router.bias")} == {torch.float32}
    losses = curve(tmp_path / "run", "train/loss")
    exact = curve(train(tmp_path / "exact", *SHORT), "train/loss")
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.02)
