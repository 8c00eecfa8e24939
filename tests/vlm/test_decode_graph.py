"""What a recording does with the function it is given, and how long things are kept. The GPU's part is a fake here."""

from __future__ import annotations

import contextlib
import gc
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from vlm_fakes import build, change

from vlm import decode_graph
from vlm.decode_graph import Recording, forget, put_back, recorded, take
from vlm.recording_key import WIDEST_HEAD, as_built, key_of, recording_key

GPU = torch.device("cuda")


class Graph:
    def __init__(self, function) -> None:
        self.replay = function


class Wrapper(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


def test_called_then_recorded_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, made = [], []
    monkeypatch.setattr(decode_graph, "recorded", lambda function: made.append(1) or Graph(lambda: calls.append("replay")))
    recording = Recording()
    for _ in range(4):
        recording.run(lambda: calls.append("call"), GPU)
    assert calls == ["call", "replay", "replay", "replay"] and len(made) == 1


def test_without_a_gpu_it_is_called_each_time() -> None:
    calls, recording = [], Recording()
    for _ in range(3):
        recording.run(lambda: calls.append("call"), torch.device("cpu"))
    assert calls == ["call"] * 3


def test_what_cannot_be_recorded_is_called_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function):
        if function is step:
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(decode_graph, "recorded", fail)
    calls, recording = [], Recording()

    def step() -> None:
        calls.append("call")

    recording.run(step, GPU)
    with pytest.warns(UserWarning, match="could not be recorded and runs unrecorded: operation not permitted"):
        recording.run(step, GPU)
    recording.run(step, GPU)
    assert calls == ["call"] * 3


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stands for torch.cuda."""
    fake = MagicMock()
    fake.stream = lambda stream: contextlib.nullcontext()
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_allocate, raising=False)
    return fake


def test_a_recording_waits_for_the_caller_and_the_caller_for_it(device: MagicMock) -> None:
    enabled = []
    graph = recorded(lambda: enabled.append(gc.isenabled()))
    stream, caller = device.Stream(), device.current_stream()
    stream.wait_stream.assert_called_once_with(caller)
    caller.wait_stream.assert_called_once_with(stream)
    assert [call[0] for call in graph.method_calls] == ["capture_begin", "capture_end"]
    assert enabled == [False] and gc.isenabled()


@pytest.mark.parametrize("end", [None, RuntimeError("operation failed due to a previous error during capture")])
def test_a_recording_that_fails_is_ended_and_says_why(device: MagicMock, end: Exception | None) -> None:
    graph = device.CUDAGraph()
    graph.capture_end.side_effect = end

    def broken() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        recorded(broken)
    graph.capture_end.assert_called_once_with()
    device.end_allocate.assert_called_once_with(device.current_device(), device.graph_pool_handle())
    assert gc.isenabled()


def test_what_is_taken_is_nobody_elses_and_the_oldest_goes() -> None:
    model = build(change(decoder={"num_layers": 1}))
    for number in range(4):
        put_back(model, "steps", number, f"desk {number}", most=3)
    assert take(model, "steps", 0) is None and take(model, "prompts", 1) is None
    assert take(model, "steps", 1) == "desk 1" and take(model, "steps", 1) is None
    forget(model)
    assert take(model, "steps", 2) is None


def test_what_is_kept_goes_with_the_model() -> None:
    model, thing = build(change(decoder={"num_layers": 1})), Graph(None)
    put_back(model, "steps", 0, thing, most=3)
    gone = weakref.ref(thing)
    del model, thing
    gc.collect()
    assert gone() is None


def test_models_that_are_not_whole_on_a_gpu_run_their_modules() -> None:
    assert recording_key(build()) is None


def test_models_with_hooks_wrapped_modules_or_odd_weights_run_their_modules() -> None:
    assert as_built(build())
    hooked, wrapped, turned, mixed = (build() for _ in range(4))
    hooked.encoder.register_forward_hook(lambda *_: None)
    wrapped.decoder.layers[0] = Wrapper(wrapped.decoder.layers[0])
    turned.decoder.embedding.weight.data = turned.decoder.embedding.weight.data.t().contiguous().t()
    mixed.fusion.half()
    wide = build(change(decoder={"head_dim": 2 * WIDEST_HEAD}))
    assert not any(as_built(model) for model in (hooked, wrapped, turned, mixed, wide))


def test_modules_that_are_not_those_of_the_configuration_run_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, twice, none, other = (build() for _ in range(4))
    forward.decoder.layers[0].moe.forward = lambda *_: None
    out = twice.decoder.layers[0].attention.out
    twice.decoder.layers[0].attention.out = torch.nn.Sequential(out, out)
    none.decoder.norm = torch.nn.Identity()
    other.decoder.layers[0].attention.out = torch.ao.nn.qat.Linear.from_float(qat(out))
    assert not any(as_built(model) for model in (forward, twice, none, other))
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not as_built(build())
    handle.remove()
    assert as_built(build()) and as_built(build().decoder)


def qat(linear: torch.nn.Linear) -> torch.nn.Linear:
    linear.qconfig = torch.ao.quantization.default_qat_qconfig
    return linear


def test_a_key_changes_with_all_that_a_recording_depends_on() -> None:
    model = build().eval()
    keys = [key_of(model)]
    assert key_of(model) == keys[0]
    model.decoder.set_rope(theta=77.0)
    keys.append(key_of(model))
    keys.append(key_of(model.train()))
    with torch.inference_mode():
        keys.append(key_of(model))
    model.decoder.embedding.weight.data = model.decoder.embedding.weight.data.clone()
    keys.append(key_of(model))
    keys.append(key_of(model.double()))
    assert len(set(keys)) == len(keys)
