"""Functions of fixed tensors recorded as CUDA graphs, and a place to keep them until a generation of the same kind comes.

A recording costs some tens of milliseconds of Python, what is recorded one or a few: so it is worth keeping, with the tensors
it reads and writes. It fits a generation with tensors of the same shapes, from the same weights at the same addresses; weights
written over in place are read as they are then. What is in use is nobody else's, so that two generations may take turns.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from vlm.writer import Writer

SHARE = 10  # of a GPU's memory one part in so many may be kept, for each sort of thing
MET = 64  # keys of a model that are remembered

_kept: WeakKeyDictionary[Writer, dict[str, dict[Hashable, tuple[Any, int]]]] = WeakKeyDictionary()
_met: WeakKeyDictionary[Writer, dict[Hashable, None]] = WeakKeyDictionary()


class Recording:
    """Of a function that has neither arguments nor results but fixed tensors: `run` calls it the first time, which compiles
    what has to be, then records it, then replays it. Without a GPU it is called each time."""

    def __init__(self) -> None:
        self.called = self.failed = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, function: Callable[[], None], device: torch.device) -> None:
        if device.type == "cuda" and self.called and self.graph is None and not self.failed:
            self._record(function)
        if self.graph is None:
            function()
            self.called = True
        else:
            self.graph.replay()

    def _record(self, function: Callable[[], None]) -> None:
        try:
            self.graph = recorded(function)
        except BaseException as error:
            self.failed = True
            with contextlib.suppress(RuntimeError):
                recorded(lambda: None)  # brings the generators of random numbers out of the recording that failed
            if not isinstance(error, Exception):
                raise
            # whatever else it is, it comes again from the call if it is not of the recording
            warnings.warn(f"a step of generation could not be recorded and runs unrecorded: {error}", stacklevel=2)


def recorded(function: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Its kernels, not run. (`torch.cuda.graph` would wait for the device and empty torch's store of memory first.)"""
    graph, stream, caller = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device()), torch.cuda.current_stream()
    pool = torch.cuda.graph_pool_handle()
    stream.wait_stream(caller)
    with _garbage_waits(), torch.cuda.stream(stream):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            function()
            graph.capture_end()
        except BaseException:
            _abandon(graph, pool)
            raise
    caller.wait_stream(stream)
    return graph


@functools.cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for all recordings: torch has few, and a new one may be another thread's."""
    return torch.cuda.Stream(device)


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End a recording that failed, as far as it has not ended: where it was broken torch before 2.12 stops halfway."""
    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


@contextlib.contextmanager
def _garbage_waits() -> Iterator[None]:
    """To free what belongs to the GPU would break a recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def met_before(model: Writer, key: Hashable) -> bool:
    """Has this been asked of the key before?"""
    met = _met.setdefault(model, {})
    before = key in met
    met[key] = met.pop(key, None)
    while len(met) > MET:
        del met[next(iter(met))]
    return before


def take(model: Writer, sort: str, key: Hashable) -> Any:
    """What was kept under these names, or `None`; it is the caller's until `put_back`."""
    return _kept.get(model, {}).get(sort, {}).pop(key, (None, 0))[0]


def put_back(model: Writer, sort: str, key: Hashable, thing: Any, most: int, size: int = 0) -> None:
    """Keep it, and no more than `most` of its sort and a share of the GPU's memory, the oldest going first: what is kept stays
    until others replace it or the model goes. `size`: bytes of its tensors."""
    kept = _kept.setdefault(model, {}).setdefault(sort, {})
    kept[key] = thing, size
    while len(kept) > most or sum(size for _, size in kept.values()) > _room(model):
        del kept[next(iter(kept))]


def _room(model: Writer) -> float:
    device = model.decoder.embedding.weight.device
    return torch.cuda.get_device_properties(device).total_memory / SHARE if device.type == "cuda" else float("inf")


def forget(model: Writer) -> None:
    """Free the memory of a model's recordings."""
    _kept.pop(model, None)
    _met.pop(model, None)
