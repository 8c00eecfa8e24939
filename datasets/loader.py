"""Mixture → batches, in an order that depends on neither ranks nor workers, resumed exactly.

A global batch has B rows. Row i belongs to lane i, which takes one of each round of B draws of the mixture (datasets/pack.py);
rank r of R owns B / R neighbouring lanes and each of its workers a part of them. So the n-th global batch is the same for
every world size and number of workers, and a state is the lanes' states, wherever they ran. Each batch carries the state that
belongs to it: what workers have fetched ahead is never taken for seen. Workers stack their own rows, and this process only
joins one part from each; pictures travel in shared memory (datasets/handover.py), into which workers write them, the rest as
bytes. When all sources are used up, rows are all padding: ranks stay in step, and the trainer decides.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datasets.counts import Counts
from datasets.handover import AHEAD, Destination, Parcel, Receiver, Sender
from datasets.mixture import Mixture
from datasets.pack import WAITING, Lane
from vlm.batch import Batch
from vlm.flops import Load
from vlm.processor import Processor


@dataclass(frozen=True)
class StepBatch:
    """One micro-batch of a step on one rank."""

    batch: Batch
    counts: Counts  # of these rows
    last: bool  # of its step
    step_learnt: int  # learnt tokens of the whole step on this rank: what a summed loss is divided by
    state: dict[str, dict] | None  # lane → state after this step, for JSON; only with the last micro-batch
    failure: Exception | None = None  # why there are no more; its rows are padding
    load: Load | None = None  # of the batch, for a trainer


class WorkerLost(RuntimeError):  # noqa: N818 - what happened, as in the message
    """A data worker is gone that nobody stopped: most often killed for want of memory."""


@dataclass(frozen=True)
class _Part:
    """One step of one worker's lanes: rows of each micro-batch it has a share in."""

    batches: dict[int, Batch]
    counts: dict[int, Counts]
    state: dict[str, dict]


@dataclass(frozen=True)
class _Sent:
    """A part on its way out of a worker: pictures in shared memory, the rest as bytes."""

    arrays: dict[int, dict[str, np.ndarray]]  # micro-batch → field → values
    images: Parcel  # of all micro-batches
    counts: dict[int, Counts]
    state: dict[str, dict]


def _sent(part: _Part, images: Parcel) -> _Sent:
    names = [f.name for f in dataclasses.fields(Batch) if f.name != "images"]
    arrays = {m: {name: getattr(batch, name).numpy() for name in names} for m, batch in part.batches.items()}
    return _Sent(arrays, images, part.counts, part.state)


def _received_part(sent: _Sent, receiver: Receiver) -> _Part:
    shares = receiver.take(sent.images).split([len(arrays["frame_time"]) for arrays in sent.arrays.values()])
    batches = {
        m: Batch(images=share, **{name: torch.from_numpy(a) for name, a in arrays.items()})
        for (m, arrays), share in zip(sent.arrays.items(), shares, strict=True)
    }
    return _Part(batches, sent.counts, sent.state)


class MixtureLoader:
    """Endless `StepBatch`es of this rank: `rows` over all ranks, `length` tokens each, in `micro_batches` parts a step.

    `state` is the union of all lanes' states from any world size. With workers, `destination` joins their pictures, and what it
    makes is in the batches; all of a step must be there before the next one is asked for (datasets/handover.py). Raises
    `ValueError` where rows cannot be shared out evenly over ranks and micro-batches, or the state belongs to another number of
    rows; later, what sources raise, or `WorkerLost`.
    """

    def __init__(
        self, mixture: Mixture, processor: Processor, *, rows: int, length: int, rank: int = 0, world: int = 1,
        workers: int = 0, micro_batches: int = 1, max_images: int = 64, window: int = 8, max_skipped: float = 0.0,
        state: dict | None = None, destination: Destination | None = None,
    ) -> None:  # fmt: skip
        if rows < 1 or rows % (world * micro_batches):
            raise ValueError(f"{rows} rows cannot be shared evenly by {world} ranks with {micro_batches} micro-batches each")
        if length < 2:
            raise ValueError(f"rows of {length} tokens hold nothing to predict")
        if state is not None and sorted(map(int, state)) != list(range(rows)):
            raise ValueError(f"the data state has {len(state)} lanes, the batch {rows} rows: keep the rows, or start anew")
        self.micro_batches = micro_batches
        self._share = share = rows // world
        self.workers = min(workers, share)
        self._destination = destination or Destination()
        self._lanes = _Lanes(
            mixture, processor, range(rank * share, (rank + 1) * share), micro_batches, state,
            {"lanes": rows, "length": length, "max_images": max_images, "window": window, "max_skipped": max_skipped},
        )  # fmt: skip

    def __iter__(self) -> Iterator[StepBatch]:
        """Workers start here, before the first step is asked for, in the thread that calls."""
        return self._steps(self._parts())

    def _steps(self, parts: Iterator[_Part]) -> Iterator[StepBatch]:
        while True:
            yield from self._step([next(parts) for _ in range(max(1, self.workers))])

    def failed(self, why: Exception) -> StepBatch:
        """A micro-batch of padding, for a trainer that must bring the bad news to other ranks."""
        padding: list[list] = [[] for _ in range(self._share // self.micro_batches)]
        batch = self._lanes.processor.collate(padding, self._lanes.options["length"])
        return StepBatch(batch, Counts(), last=True, step_learnt=0, state=None, failure=why)

    def _parts(self) -> Iterator[_Part]:
        if not self.workers:
            return iter(self._lanes)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every forked worker prints a warning
        loader = DataLoader(
            self._lanes, batch_size=None, num_workers=self.workers, collate_fn=_as_is, worker_init_fn=_start_worker,
            prefetch_factor=AHEAD, generator=torch.Generator(),  # its own: workers must not move the global random state
        )  # fmt: skip
        return _received_parts(_received(_started(loader)), Receiver(self._destination))

    def _step(self, parts: Sequence[_Part]) -> Iterator[StepBatch]:
        state = {lane: s for part in parts for lane, s in part.state.items()}
        counts = [_total(part.counts[m] for part in parts if m in part.counts) for m in range(self.micro_batches)]
        learnt = sum(c.learnt for c in counts)
        for m, count in enumerate(counts):
            last = m == self.micro_batches - 1
            batches = [part.batches[m] for part in parts if m in part.batches]
            batch = concatenate(batches, self._destination.join) if self.workers else batches[0]
            yield StepBatch(batch, count, last, learnt, state if last else None)


class _Lanes(IterableDataset):
    """A rank's lanes; in a worker, that worker's part of them. Yields one `_Part` a step, for ever."""

    def __init__(
        self, mixture: Mixture, processor: Processor, lanes: range, micro_batches: int, state: dict | None, options: dict
    ) -> None:
        self.mixture, self.processor, self.lanes, self.options = mixture, processor, lanes, options
        self.micro_batches = micro_batches
        self.state = {} if state is None else {int(lane): s for lane, s in state.items()}

    def __iter__(self) -> Iterator[_Part | _Sent | ValueError]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        share, rows = len(self.lanes), len(self.lanes) // self.micro_batches
        mine = range(share * worker // workers, share * (worker + 1) // workers)
        groups: dict[int, list[Lane]] = {}
        sender = Sender(worker) if info else None
        try:
            for i, lane in zip(mine, self._all(mine), strict=True):
                groups.setdefault(i // rows, []).append(lane)
            while True:
                yield self._part(groups, sender)
        except ValueError as error:
            if info is None:
                raise
            yield error  # given on as it is: DataLoader would bury its one line in a traceback

    def _all(self, mine: range) -> Iterator[Lane]:
        shared = {"reported": Counter(), "waiting": WAITING // len(mine), **self.options}
        for lane in (self.lanes[i] for i in mine):
            yield Lane(self.mixture, self.processor, lane=lane, state=self.state.get(lane), **shared)

    def _part(self, groups: dict[int, list[Lane]], sender: Sender | None) -> _Part | _Sent:
        rows, counts = {}, {}
        state: dict[str, dict] = {}
        for lane in itertools.chain(*groups.values()):
            lane.read_ahead()
        for m, lanes in groups.items():
            rows[m], row_counts = zip(*(lane.row() for lane in lanes), strict=True)
            counts[m] = _total(row_counts)
            state |= {str(lane.lane): lane.state() for lane in lanes}
        collate, length = self.processor.collate, self.options["length"]
        if sender is None:
            return _Part({m: collate(group, length) for m, group in rows.items()}, counts, state)
        frames = [count.images for count in counts.values()]
        images, parcel = sender.room((sum(frames), *self.processor.frame_shape))
        places = zip(rows.items(), images.split(frames), strict=True)
        return _sent(_Part({m: collate(group, length, place) for (m, group), place in places}, counts, state), parcel)


def concatenate(batches: Sequence[Batch], join: Callable[[list[Tensor]], Tensor] = torch.cat) -> Batch:
    """Batches of one length, one below the other; `join` puts their pictures together."""
    row = media = 0
    moved = []
    for batch in batches:
        index = torch.where(batch.image_index >= 0, batch.image_index + media, -1)
        place = batch.media_document + torch.tensor([row, 0])
        moved.append(
            dataclasses.replace(batch, image_index=index, media_document=place, media_of_frame=batch.media_of_frame + media)
        )
        row, media = row + len(batch.tokens), media + batch.num_media
    names = [f.name for f in dataclasses.fields(Batch) if f.name != "images"]
    images = join([batch.images for batch in batches])
    return Batch(images=images, **{name: torch.cat([getattr(b, name) for b in moved]) for name in names})


def _total(counts: Iterable[Counts]) -> Counts:
    total = Counts()
    for count in counts:
        total += count
    return total


def _started(loader: DataLoader) -> Iterator[_Sent | ValueError]:
    """The loader's workers run. PyTorch asks the system to be told at once when one of them is gone, and raises in the midst of
    whatever then runs: that is undone, and what is wrong comes up in `_received`, within seconds."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    parts = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return parts


def _received(parts: Iterator[_Sent | ValueError]) -> Iterator[_Sent | ValueError]:
    """What the workers send, and `WorkerLost` when one of them is gone, raised here and nowhere else. A connection that breaks
    is a worker that goes while it hands over a buffer."""
    try:
        yield from parts
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerLost(
            "a data worker has died, most often for want of memory: less is needed with smaller run.workers; the same command "
            "goes on from the last checkpoint"
        ) from None


def _received_parts(received: Iterator[_Sent | ValueError], receiver: Receiver) -> Iterator[_Part]:
    try:
        for sent in received:
            yield _received_part(_raised(sent), receiver)
    finally:
        receiver.close()


def _as_is(part: Any) -> Any:
    return part


def _raised(sent: _Sent | ValueError) -> _Sent:
    if isinstance(sent, ValueError):
        raise ValueError(str(sent))  # a new one: `sent` would be in a cycle with this frame, and workers then close late
    return sent


def _start_worker(worker: int) -> None:
    """One thread each; where there are more of them than processors, they give way to the process that trains."""
    torch.set_num_threads(1)
    os.nice(5)
