"""Several processes: how they are found, and the few sums the loss needs over all of them.

The mathematics is that of one process with the whole batch: cross-entropy is divided by the learnt tokens of all ranks, and
the load-balance loss uses the load of all ranks. Each rank's loss is its part of that sum times the number of ranks, because
Lightning's DDP averages gradients.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from train.config import RunConfig
from vlm.model import VLM


class LeftToFirst(Exception):  # noqa: N818 - no error of this rank's
    """On every rank but the first, when all stop: the first says why."""


_LONGEST_WAIT = timedelta(hours=6)  # rank 0 measures and evaluates alone, and the others wait for it


def checkpoint_activations(model: VLM) -> None:
    """From here on keep only what goes into each block, and compute the block again in the backward pass (Chen et al., 2016).

    Blocks are the decoder's layers, the gated blocks, the resampler's layers and, by its library's own switch, the encoder's.
    Names of weights, results and gradients stay what they are; without gradients nothing is different.
    """
    for block in (*model.decoder.layers, *model.fusion.values(), *getattr(model.resampler, "layers", ())):
        block.forward = _checkpointed(block.forward)
    encoder: Any = next(m for m in model.encoder.children() if hasattr(m, "set_grad_checkpointing"))
    encoder.set_grad_checkpointing()


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own: a `partial` would keep torch.compile from the whole block."""

    def run(*args: Any, **options: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **options)

    return run


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def sum_over_ranks(*values: Tensor) -> list[Tensor]:
    """Each value summed over all ranks, in one message, in float64 (counts stay exact)."""
    if not is_distributed():
        return list(values)
    flat = torch.cat([v.detach().reshape(-1).double() for v in values])
    dist.all_reduce(flat)
    parts = flat.split([v.numel() for v in values])
    return [part.view_as(v).to(v.dtype) for part, v in zip(parts, values, strict=True)]


def on_any_rank(mine: bool, device: torch.device) -> bool:
    """Does it hold on some rank? One process alone need not ask its device."""
    return bool(sum_over_ranks(torch.tensor(float(mine), device=device))[0] > 0) if is_distributed() else mine


def gather_dicts(mine: dict[str, Any]) -> dict[str, Any]:
    """The union of every rank's dictionary."""
    if not is_distributed():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def gather_lists(mine: list[Any]) -> list[Any]:
    """Every rank's list, one behind the other."""
    if not is_distributed():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [entry for part in parts for entry in part]


def sum_counters(mine: Counter[str]) -> Counter[str]:
    """Every rank's counts added up."""
    if not is_distributed():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return sum(parts, Counter())


def stop_all(error: Exception) -> NoReturn:
    """To be called on all ranks at the same moment. The first raises `error`, the others leave without a word."""
    if is_distributed() and dist.get_rank() > 0:
        raise LeftToFirst(str(error))
    raise error


def check_together(mine: Exception | None) -> None:
    """To be called on all ranks. Where one has met an error, all stop."""
    found = [error for error in gather_lists([mine]) if error is not None]
    if found:
        stop_all(found[0])


@contextmanager
def together() -> Iterator[None]:
    """Gone through by all ranks: a user's mistake that one of them meets stops all."""
    mine = None
    try:
        yield
    except ValueError as error:
        mine = error
    check_together(mine)


def trainer_devices(run: RunConfig) -> dict[str, Any]:
    """Lightning's arguments for where to run: what torchrun launched, else `run.devices` on each of `run.num_nodes`.

    Raises `ValueError` for devices that are not there.
    """
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    on_gpu = run.accelerator == "gpu" or (run.accelerator == "auto" and torch.cuda.is_available())
    devices: int = launched or run.devices or (torch.cuda.device_count() if on_gpu else 1)
    if on_gpu and not 1 <= devices <= torch.cuda.device_count():
        raise ValueError(
            f"run.accelerator {run.accelerator!r} with {devices} processes: {torch.cuda.device_count()} CUDA devices here"
        )
    nodes = int(os.environ["WORLD_SIZE"]) // launched if launched else run.num_nodes
    strategy: str | Strategy = "auto"
    if devices * nodes > 1:
        backend = None if on_gpu else "gloo"
        strategy = DDPStrategy(process_group_backend=backend, timeout=_LONGEST_WAIT, gradient_as_bucket_view=True)
    return {"accelerator": "gpu" if on_gpu else "cpu", "devices": devices, "num_nodes": nodes, "strategy": strategy}


def compiles(run: RunConfig) -> bool:
    """Whether blocks are compiled: as `run.compile` says, or on GPUs that may take faster kernels."""
    on_gpu = trainer_devices(run)["accelerator"] == "gpu"
    return on_gpu and not run.deterministic if run.compile is None else run.compile


def evaluation_device(run: RunConfig) -> torch.device:
    """Where the first process evaluates: its own GPU when it trains on one."""
    return torch.device("cuda", 0) if trainer_devices(run)["accelerator"] == "gpu" else torch.device("cpu")
