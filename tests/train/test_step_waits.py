"""A training step waits for its device once, at its end: on tensors without numbers all but that goes through."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_memory import made
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from datasets.counts import Counts
from datasets.loader import StepBatch
from train.module import VLMModule
from train.optim.groups import freeze
from vlm import model as vlm_model
from vlm import moe
from vlm.flops import Load


def test_numbers_are_read_once_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model, batch = made(tmp_path)
    stage = dataclasses.replace(settings.stages[-1], micro_batches=2)
    freeze(model, stage.train)
    # stand-ins that need no numbers: the CPU has no grouped kernel, and these are other tests' business
    monkeypatch.setattr(moe, "grouped_matmul", lambda x, weight, ends: x @ weight.sum(dim=0))
    monkeypatch.setattr(vlm_model, "nll_sum", lambda states, labels, head, *_: (states.float() @ head.T.float()).sum())
    mode = FakeTensorMode()
    for module in model.modules():
        for name, weight in module._parameters.items():
            fake = mode.from_tensor(weight.detach()) if weight is not None else None
            module._parameters[name] = None if fake is None else nn.Parameter(fake, requires_grad=weight.requires_grad)
    fields = {f.name: mode.from_tensor(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
    module = VLMModule(model, stage, settings.optim, steps=10)
    counts = Counts(tokens=batch.tokens.numel(), learnt=batch.extent.learnt)
    for last in (False, True):
        step = StepBatch(
            batch._with(batch.extent, **fields), counts, last, 2 * counts.learnt, {} if last else None, load=Load.of(batch)
        )
        with mode:
            module.training_step(step, 0).backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    with mode:
        module.configure_gradient_clipping(optimizer)
    with mode, pytest.raises(DataDependentOutputException) as caught:
        module._end_step()
    assert [entry.name for entry in caught.traceback if entry.path.name == "host_copy.py"][-1] == "read"
