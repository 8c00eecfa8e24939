"""From the host to one GPU: a step's pictures and numbers, on a stream of their own, beside what the GPU computes.

A GPU copies by itself only from page-locked memory. The shared buffers that data workers write into are locked once
(`cudaHostRegister`), so pictures go from where a worker has put them to their place in the step's tensor, and this process
copies none. Where the driver refuses that, each part goes through locked memory of torch's, which keeps it for the next
step. `send` ends when the copies have (2 to 5 ms for 120 MB by PCIe 4 or 5), and so needs a thread (train/prefetch.py) to cost
the training nothing: in return a batch is on the GPU when it is handed over, and workers may write again.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor

from datasets.handover import Destination
from vlm.batch import Batch

log = logging.getLogger(__name__)


class DeviceCopy(Destination):
    """Batches go to a CUDA `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._copied = torch.cuda.Event(blocking=True)  # whoever waits for it leaves the processor to others
        self._registered: set[int] = set()  # addresses
        self._refused = False

    def register(self, buffer: Tensor) -> None:
        if self._refused or not buffer.numel():
            return
        cudart: Any = torch.cuda.cudart()
        with torch.cuda.device(self.device):
            code = cudart.cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)
        if code == cudart.cudaError.success:
            self._registered.add(buffer.data_ptr())
            return
        self._refused = True  # CUDA keeps the error for this thread's next kernel: it launches none
        log.warning("CUDA error %d: shared memory cannot be page-locked, so each picture is copied once more", int(code))

    def unregister(self, buffer: Tensor) -> None:
        if buffer.data_ptr() not in self._registered:
            return
        self._registered.remove(buffer.data_ptr())
        cudart: Any = torch.cuda.cudart()
        with torch.cuda.device(self.device):
            torch.cuda.check_error(cudart.cudaHostUnregister(buffer.data_ptr()))

    def join(self, images: list[Tensor]) -> Tensor:
        """[N, 3, H, W] on the GPU, which still copies: `send` waits for it."""
        shape = (sum(map(len, images)), *images[0].shape[1:])
        with torch.cuda.stream(self._stream):
            joined = torch.empty(shape, dtype=torch.uint8, device=self.device)
            for place, part in zip(joined.split([len(part) for part in images]), images, strict=True):
                locked = part.untyped_storage().data_ptr() in self._registered
                place.copy_(part if locked else part.pin_memory(), non_blocking=True)
        return joined

    def send(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            sent = batch.pin_memory().to(self.device, non_blocking=True)
            self._copied.record()
        self._copied.synchronize()
        return sent

    def receive(self, batch: Batch) -> None:
        """Its memory belongs to the copies' stream, and is not given out again before the caller's stream is done with it."""
        stream = torch.cuda.current_stream(self.device)
        for field in dataclasses.fields(batch):
            getattr(batch, field.name).record_stream(stream)
