"""Numbers on their way from a GPU to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy that starts now. Whoever reads it waits for the work that the GPU was given before, and not for what follows."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)
        self._done = torch.cuda.Event() if tensor.is_cuda else None
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> list[float]:
        if self._done is not None:
            self._done.synchronize()
        return self._copy.tolist()
