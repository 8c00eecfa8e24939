"""Steps on their way to a GPU: what the driver is asked for, and on a machine with one that they arrive."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from train_steps import loader

from train.data import Steps
from train.device_copy import DeviceCopy


class Driver:
    """The few calls of the CUDA runtime, for a machine without one."""

    cudaError = SimpleNamespace(success=0)  # noqa: N815 - its name

    def __init__(self, answer: int) -> None:
        self.answer, self.locked, self.asked = answer, set(), 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        self.asked += 1
        if self.answer == 0:
            self.locked.add((address, size))
        return self.answer

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.locked = {one for one in self.locked if one[0] != address}
        return 0


@pytest.fixture
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver(request.param)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: None)
    return found


@pytest.mark.parametrize("driver", [0], indirect=True)
def test_each_buffer_is_locked_once_and_let_go(driver: Driver) -> None:
    copy, buffers = DeviceCopy(torch.device("cuda", 0)), [torch.empty(n, dtype=torch.uint8) for n in (40, 0, 8)]
    for buffer in buffers:
        copy.register(buffer)
    assert driver.locked == {(b.data_ptr(), b.numel()) for b in (buffers[0], buffers[2])}  # of an empty one there is nothing
    for buffer in buffers:
        copy.unregister(buffer)
    assert not driver.locked


@pytest.mark.parametrize("driver", [801], indirect=True)
def test_a_driver_that_refuses_is_asked_once(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    copy, buffers = DeviceCopy(torch.device("cuda", 0)), [torch.empty(8, dtype=torch.uint8) for _ in range(3)]
    for buffer in buffers:
        copy.register(buffer)
        copy.unregister(buffer)
    assert driver.asked == 1 and [r.getMessage().split(":")[0] for r in caplog.records] == ["CUDA error 801"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(("workers", "micro_batches"), [(0, 1), (1, 1), (2, 2)])
def test_steps_arrive_on_the_gpu_as_they_are_on_the_host(workers: int, micro_batches: int, refused: bool) -> None:
    device = torch.device("cuda", 0)
    copy = DeviceCopy(device)
    copy._refused = refused
    steps = Steps(loader(workers, micro_batches=micro_batches, destination=copy), copy, ahead=workers > 0)
    arrived = list(itertools.islice(steps, 12))  # all are kept, though memory is used again
    for ours, alone in zip(arrived, loader(0, micro_batches=micro_batches), strict=False):
        assert ours.batch.tokens.device == device and ours.state == alone.state and ours.batch.extent == alone.batch.extent
        for field in dataclasses.fields(alone.batch):
            assert torch.equal(getattr(ours.batch, field.name).cpu(), getattr(alone.batch, field.name)), field.name
