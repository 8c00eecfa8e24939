"""A forward pass and its gradients ask the device for no number, so on a GPU the host never waits.

Under FakeTensorMode tensors have shapes and no numbers: what would need one (`item`, `nonzero`, a boolean index, `bincount`)
raises.
"""

import dataclasses

import pytest
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from vlm_fakes import CONFIG, DOCUMENTS, change

from vlm import VLM, Batch, moe


def without_numbers(batch: Batch, mode: FakeTensorMode) -> Batch:
    fake = {f.name: mode.from_tensor(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
    return batch._with(batch.extent, **fake)


@pytest.fixture(autouse=True)
def _grouped(monkeypatch):
    """On the CPU there is no grouped kernel, and its stand-in must know where to cut."""
    monkeypatch.setattr(moe, "grouped_matmul", lambda x, weight, ends: x @ weight.sum(dim=0))


@pytest.fixture(params=[[[1], [0]], [[5, 3], [4]], [[0], [0, 0]]], ids=["one image", "clip and images", "text"])
def batch(request, processor):
    docs = [processor.encode(s) for s in DOCUMENTS]
    return processor.collate([[docs[i] for i in row] for row in request.param])


def test_the_fake_knows_a_wait_when_it_meets_one(batch):
    with FakeTensorMode() as mode, pytest.raises(DataDependentOutputException):
        mode.from_tensor(batch.tokens).max().item()


def fake_model(sees: str, mode: FakeTensorMode) -> VLM:
    model = VLM(change(CONFIG, fusion={"sees": sees}))
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else nn.Parameter(mode.from_tensor(parameter.detach()))
    return model


@pytest.mark.parametrize("sees", ["last", "all"])
def test_hidden_states_and_their_gradients(batch, sees):
    mode = FakeTensorMode()
    model, fake = fake_model(sees, mode), without_numbers(batch, mode)
    with mode:
        states = model.hidden(fake).states
        states.sum().backward()
    assert states.shape == (*batch.tokens.shape, CONFIG.decoder.dim)
    assert all(p.grad is not None for p in model.resampler.parameters())
