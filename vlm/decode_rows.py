"""Rows written by a recorded step: all kernels of a token, the choice of the next one among them, replayed as one CUDA graph.

The first step runs as it is, which compiles what has to be; the second is recorded. That costs some milliseconds a
generation, and so nothing recorded outlives its generation: weights may be loaded, moved or trained between two, and no memory
stays behind.

The device is kept one step ahead: while the host reads a step's tokens and asks whether they end a row, the next step runs.
A row that has ended stays as a passenger until half have, then the others go on in a recording of their own.
Without a GPU the step is called where it would be replayed: the same tokens, slowly.

B rows, V vocabulary.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from vlm.decode import DecodeStep
from vlm.generate import Cursor, Written, chosen, precise, written
from vlm.kernels.launch import pick
from vlm.sampling import Chooser


class Recording:
    """Of a function of static tensors, without arguments or results: it is called once, then recorded, then replayed.

    (The function is no attribute: a method that refers to its object would keep the graph until garbage is collected.)
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu, self.called = device.type == "cuda", False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if not (self.on_gpu and self.called):
            function()
            self.called = True
            return
        if self.graph is None:
            self.graph = recorded(function)
        self.graph.replay()


def recorded(function: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Its kernels, not run. Garbage waits meanwhile: to free what belongs to the GPU would break the recording."""
    graph, stream, collects = torch.cuda.CUDAGraph(), torch.cuda.Stream(), gc.isenabled()
    stream.wait_stream(torch.cuda.current_stream())
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
    finally:
        if collects:
            gc.enable()
    return graph


class Mailbox:
    """Results [B, 2] on their way to the host, two at most; each with which of its rows are still asked for."""

    def __init__(self, like: Tensor) -> None:
        self.on_gpu = like.is_cuda
        self.buffers = [torch.empty(like.shape, dtype=like.dtype, pin_memory=self.on_gpu) for _ in range(2)]
        self.events = [torch.cuda.Event() for _ in range(2)] if self.on_gpu else []
        self.sent = 0
        self.waiting: deque[tuple[int, list[int]]] = deque()

    def send(self, found: Tensor, rows: list[int]) -> None:
        slot = self.sent % 2
        self.buffers[slot][: len(found)].copy_(found, non_blocking=True)
        if self.on_gpu:
            self.events[slot].record()
        self.waiting.append((slot, rows))
        self.sent += 1

    def receive(self) -> Tensor:
        """The oldest, of the rows asked for."""
        slot, rows = self.waiting.popleft()
        if self.on_gpu:
            self.events[slot].synchronize()
        return self.buffers[slot][rows]

    def narrow(self, going: list[int]) -> None:
        """Of the rows asked for, only these."""
        self.waiting = deque((slot, [rows[i] for i in going]) for slot, rows in self.waiting)


class RecordedRows:
    """See above; `read` and `advance` as `vlm.generate.Rows`."""

    def __init__(self, cursor: Cursor, chooser: Chooser, new_tokens: int) -> None:
        self.cache, self.chooser, self.left = cursor.cache, chooser, new_tokens
        self.step = DecodeStep(cursor.model, cursor.cache)
        self.positions = cursor.positions.clone()
        self.tokens = torch.empty_like(self.positions)
        self.uniform = None if chooser.options.temperature == 0 else self.positions.double()
        self.found = cursor.logits.new_empty(len(self.positions), 2)
        self.rows = list(range(len(self.positions)))  # of the tensors above, those that have not ended
        self.mail = Mailbox(self.found)
        self.recording = Recording(self.tokens.device)
        self._launch(lambda: self._choose(cursor.logits))
        self._launch(self._go_on)

    def read(self) -> Written:
        return written(self.mail.receive())

    def advance(self, going: list[int]) -> None:
        self.rows = [self.rows[i] for i in going]
        self.mail.narrow(going)
        if 2 * len(self.rows) <= len(self.tokens):
            self._leave_behind()
        self._launch(self._go_on)

    def _launch(self, function: Callable[[], None]) -> None:
        """Another token, if any is left to be written."""
        if not self.left:
            return
        self.left -= 1
        with torch.cuda.device_of(self.tokens):
            if self.uniform is not None:
                self.uniform.copy_(self.chooser.uniform(), non_blocking=True)
            function()
            self.mail.send(self.found, self.rows)

    def _go_on(self) -> None:
        self.recording(self._write)

    def _write(self) -> None:
        logits = self.step(self.tokens, self.positions)
        self.positions += 1
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        if self.chooser.plain:
            pick(logits, self.tokens, self.found)
            return
        logits = precise(logits)
        tokens = self.chooser.choose(logits, self.uniform)
        self.tokens.copy_(tokens)
        self.found.copy_(chosen(logits, tokens))

    def _leave_behind(self) -> None:
        """Go on without the rows that have ended."""
        index = torch.tensor(self.rows, device=self.tokens.device)
        self.cache.reorder(index)
        self.chooser.keep(self.rows)
        self.tokens, self.positions, self.found = self.tokens[index], self.positions[index], self.found[index]
        self.uniform = None if self.uniform is None else self.uniform[index]
        self.rows = list(range(len(index)))
        self.recording = Recording(self.tokens.device)
