"""Compilation of a model's blocks with torch.compile: fewer and larger kernels, and less kept for the backward pass.

Blocks of one kind share what was compiled, so a deep model takes no longer than a shallow one. What stands between them stays
plain Python: hooks, checkpoints and sharding go there. Names of weights stay what they are.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from encoders import Encoder
from vlm.compile_barrier import add_barriers
from vlm.decoder import TextDecoder
from vlm.model import VLM
from vlm.sight import varying

_VARIANTS = 64  # forms of one block: training and evaluation, frozen or not, with and without a router, a last batch's rows


def compile_blocks(model: VLM | TextDecoder, activation_memory: float = 1.0, backend: str = "inductor") -> None:
    """From here on the decoder's layers, the gated blocks, the resampler's layers and the encoder's stem and blocks run
    compiled.

    `activation_memory`, from 0 to 1, is the share of a block's activations that may be kept for its backward pass; the compiler
    chooses which of the others are the cheapest to compute again. 0 keeps what goes into a block. `backend` is torch.compile's.

    Compilation comes with the first batch and takes about a minute; the first batch with a single picture brings a part of it
    again, other numbers of pictures, documents or learnt tokens none. Raises `ValueError`
    where inductor has no compiler to work with.
    """
    if backend == "inductor":
        check_compiler()
        if torch.cuda.is_available():
            add_barriers()
            start_workers()
    torch._functorch.config.activation_memory_budget = activation_memory
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for block in blocks(model):
        block.compile(backend=backend)
    if isinstance(model, VLM):
        for block in _of_pictures(model.encoder):
            block._compiled_call_impl = _AnyNumber(block._compiled_call_impl)


class _AnyNumber:
    """A compiled module that takes any number of pictures, or of what is made of them, from its first batch on."""

    def __init__(self, compiled: Callable[..., Any]) -> None:
        self.compiled = compiled

    def __call__(self, x: Tensor, *rest: Any, **options: Any) -> Any:
        return self.compiled(varying(x), *rest, **options)


def start_workers() -> None:
    """Start the processes that compile Triton kernels, with SIGTERM held back from them.

    A scheduler sends it to all of a job's processes; a run whose workers went waits for its kernels for ever (torch 2.11) or
    fails (2.15) instead of ending its step and saving. The price: later torch waits ten seconds for the workers at the end.
    """
    from torch._inductor.async_compile import AsyncCompile

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # processes inherit it
    try:
        AsyncCompile.warm_pool()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_compiler() -> None:
    """Inductor writes C++ for a CPU; for a GPU it writes Triton, which compiles a piece of C for each kernel."""
    missing = _missing_c() if torch.cuda.is_available() else _missing_cpp()
    if missing is not None:
        raise ValueError(f"compiled blocks want a {missing}, and none is here: install one, or go without (run.compile: false)")


def _missing_c() -> str | None:
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return None if any(map(shutil.which, compilers)) else "C compiler (gcc, clang, or what CC names)"


def _missing_cpp() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "C++ compiler (g++, clang++, or what CXX names)"
    return None


def blocks(model: VLM | TextDecoder) -> Iterator[nn.Module]:
    """The parts that repeat, and what makes patches of pixels: nearly all of a model's arithmetic."""
    yield from model.decoder.layers
    if isinstance(model, VLM):
        yield from model.fusion.values()
        yield from getattr(model.resampler, "layers", ())
        yield from _of_pictures(model.encoder)


def _of_pictures(encoder: Encoder) -> Iterator[nn.Module]:
    yield encoder.standardise
    if encoder.stem is not None:
        yield encoder.stem
    yield from encoder.blocks
