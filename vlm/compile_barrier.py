"""A barrier that the compiler of earlier torch leaves out (pytorch/pytorch#190517), without which gradients are wrong at times.

A reduction that the compiler writes as loops may store a value in one and load it in the next. Warps then read what others
wrote, and nothing in between made them wait: in bf16, for 2 x 256 tokens of width 256, the gradient by a layer's input was
garbage at a third of the batches, and all else right (docs/LOG.md, 2026-11-22). torch 2.11 to 2.13 lack it, 2.14 has it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.compiler.config


def add_barriers() -> None:
    """From here on Triton kernels of torch.compile wait before they read back what they wrote, in all of the process. Kernels
    cached without are compiled anew. Nothing happens where torch, or a call before, has seen to it."""
    from torch._inductor.codegen.common import DeferredLine
    from torch._inductor.codegen.triton import TritonKernel

    if "invalidated_stores" in inspect.getsource(TritonKernel.load):
        return
    load, get_load_buffer = TritonKernel.load, TritonKernel.get_load_buffer
    reads_back: list[str] = []  # the buffer of the load under way

    def load_behind_barrier(self: Any, name: str, index: Any) -> Any:
        reads_back[:] = [name] if name in self.cse.invalidated_stores else []
        try:
            return load(self, name, index)
        finally:
            reads_back.clear()

    def buffer_with_barrier(self: Any, indexing: Any) -> Any:
        lines = get_load_buffer(self, indexing)
        for name in reads_back:
            lines.writeline(DeferredLine(name, "tl.debug_barrier()"))
        return lines

    TritonKernel.load, TritonKernel.get_load_buffer = load_behind_barrier, buffer_with_barrier
    torch.compiler.config.cache_key_tag += "read-back-barrier"
