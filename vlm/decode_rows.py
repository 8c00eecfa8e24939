"""Rows written by a recorded step: all kernels of a token, the greedy choice of the next one among them, in one CUDA graph.

The device is kept one step ahead: while the host reads a step's tokens and asks whether they end a row, the next step runs. The
first tokens are handed out before there is a step, which may have to be compiled or recorded.
A row that has ended stays as a passenger until a quarter are left, which then go on as a smaller batch. Without a GPU the step
is called where it would be replayed: the same tokens, slowly.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlm.cache import Cache
from vlm.decode import DecodeStep, rotary_rows
from vlm.decode_graph import Recording, put_back, take
from vlm.generate import RECORDED, Cursor, Written, chosen, precise, written
from vlm.kernels.launch import pick
from vlm.sampling import Chooser
from vlm.writer import Writer

KEPT = 3  # desks of a model: a batch's, and those of what is left of it
AHEAD = 2  # steps launched and not read
LEAVE = 4  # the share of a batch that goes on without the rest is one in so many


class Mailbox:
    """Results [B, 2] on their way to the host, AHEAD at most; each with which of its rows are still asked for."""

    def __init__(self, like: Tensor) -> None:
        self.on_gpu = like.is_cuda
        self.buffers = [torch.empty(like.shape, dtype=like.dtype, pin_memory=self.on_gpu) for _ in range(AHEAD)]
        self.events = [torch.cuda.Event() for _ in range(AHEAD)] if self.on_gpu else []
        self.sent = 0
        self.waiting: deque[tuple[int, list[int]]] = deque()

    def send(self, found: Tensor, rows: list[int]) -> None:
        slot = self.sent % AHEAD
        self.buffers[slot][: len(found)].copy_(found, non_blocking=True)
        if self.on_gpu:
            self.events[slot].record()
        self.waiting.append((slot, rows))
        self.sent += 1

    def receive(self) -> Written:
        """The oldest, of the rows asked for."""
        slot, rows = self.waiting.popleft()
        if self.on_gpu:
            self.events[slot].synchronize()
        found = written(self.buffers[slot])
        return [found[row] for row in rows]

    def narrow(self, going: list[int]) -> None:
        """Of the rows asked for, only these."""
        self.waiting = deque((slot, [rows[i] for i in going]) for slot, rows in self.waiting)


@dataclass
class Desk:
    """What a recorded step works at, for B rows: their cache, `tokens` and `positions` [B] of the next step, `found` [B, 2] as
    `vlm.generate.chosen` gives it, `logits` [B, V] of the last step, and the rotary `table`."""

    key: Hashable
    cache: Cache
    table: tuple[Tensor, Tensor]
    tokens: Tensor
    positions: Tensor
    found: Tensor
    logits: Tensor | None = None
    recording: Recording = field(default_factory=Recording)

    @classmethod
    def of(cls, model: Writer, cache: Cache, positions: Tensor, *key: Hashable, shared: bool = False) -> Desk:
        """For rows that go on at `positions` [B] with the contents of `cache`, which it may keep unless `shared`; `key` is
        what else the recording depends on."""
        key = (*key, *((t.shape, t.dtype) for t in cache.tensors()))
        desk = take(model, "steps", key)
        if desk is None:
            table = rotary_rows(cache.layers[0].keys.shape[2], model.decoder.config, positions.device)
            found = torch.empty(len(positions), 2, dtype=torch.float32, device=positions.device)
            return cls(key, cache.copied() if shared else cache, table, torch.empty_like(positions), positions.clone(), found)
        torch._foreach_copy_(desk.cache.tensors(), cache.tensors())
        desk.positions.copy_(positions)
        return desk


class RecordedRows:
    """See above; `read`, `advance` and `close` as `vlm.generate.Rows`."""

    def __init__(self, cursor: Cursor, chooser: Chooser, new_tokens: int) -> None:
        self.model, self.chooser, self.left = cursor.model, chooser, new_tokens
        self.key = (cursor.key, chooser.plain)
        self.desk = Desk.of(cursor.model, cursor.cache, cursor.positions, *self.key, shared=cursor.shared)
        self.place = cursor.model.decoder.embedding.weight.data_ptr()
        self.uniform = None if chooser.options.temperature == 0 else self.desk.positions.double()
        self.rows = list(range(len(self.desk.tokens)))  # of the desk's, those that have not ended
        self.mail = Mailbox(self.desk.found)
        self._launch(lambda: self._choose(cursor.logits))
        cursor.close()  # all of it is here

    def read(self) -> Written:
        return self.mail.receive()

    def advance(self, going: list[int]) -> None:
        if self.model.decoder.embedding.weight.data_ptr() != self.place:
            raise RuntimeError("the model's weights were moved while it was writing")
        self.rows = [self.rows[i] for i in going]
        self.mail.narrow(going)
        if self.left >= RECORDED and LEAVE * len(self.rows) <= len(self.desk.tokens):
            self._leave_behind()
        while self.left and len(self.mail.waiting) < AHEAD:
            self._launch(self._step)

    def close(self) -> None:
        self._put_back(self.desk)

    def _put_back(self, desk: Desk) -> None:
        put_back(self.model, "steps", desk.key, desk, KEPT, sum(t.nbytes for t in desk.cache.tensors()))

    def _launch(self, function: Callable[[], None]) -> None:
        """Another token."""
        self.left -= 1
        with torch.cuda.device_of(self.desk.tokens):
            if self.uniform is not None:
                self.uniform.copy_(self.chooser.uniform(), non_blocking=True)
            function()
            self.mail.send(self.desk.found, self.rows)

    def _step(self) -> None:
        self.desk.recording.run(self._write, self.desk.tokens.device)
        if not self.chooser.plain:
            self._choose(self.desk.logits)

    def _write(self) -> None:
        """What is recorded."""
        desk = self.desk
        desk.logits = DecodeStep(self.model, desk.cache, desk.table)(desk.tokens, desk.positions)
        desk.positions += 1
        if self.chooser.plain:
            self._choose(desk.logits)

    def _choose(self, logits: Tensor) -> None:
        desk = self.desk
        if self.chooser.plain:
            pick(logits, desk.tokens, desk.found)
            return
        logits = precise(logits)
        tokens = self.chooser.choose(logits, self.uniform)
        desk.tokens.copy_(tokens)
        desk.found.copy_(chosen(logits, tokens))

    def _leave_behind(self) -> None:
        """Go on without the rows that have ended."""
        left, index = self.desk, torch.tensor(self.rows, device=self.desk.tokens.device)
        self.desk = Desk.of(self.model, left.cache.of_rows(index), left.positions[index], *self.key)
        self.desk.tokens.copy_(left.tokens[index])
        self.chooser.keep(self.rows)
        self.uniform = None if self.uniform is None else self.uniform[index]
        self.rows = list(range(len(index)))
        self._put_back(left)
