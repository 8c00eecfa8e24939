"""What a recording of a model depends on, and whether there may be one."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from vlm.fusion import GatedCrossAttention

if TYPE_CHECKING:
    from vlm.writer import Writer

WIDEST_HEAD = 128  # wider ones take more shared memory than some GPUs have


def recording_key(model: Writer) -> Hashable | None:
    """Beside shapes: the stream of work, and `key_of`.

    `None` where there is none: it takes weights on a GPU, in half precision and used in it, and a model as it was built.
    """
    weight = model.decoder.embedding.weight
    if not weight.is_cuda or weight.dtype not in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cuda"):
        return None
    key = key_of(model) if _has_triton() else None
    return key and (*key, torch.cuda.current_stream(weight.device).cuda_stream)


def key_of(model: Writer) -> tuple[Hashable, ...] | None:
    """Configuration, precision, where the weights are, and the modes of the model and of torch."""
    addresses, weight = as_built(model), model.decoder.embedding.weight
    return addresses and (model.decoder.config, weight.dtype, addresses, model.training, torch.is_inference_mode_enabled())


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def as_built(model: Writer) -> tuple[int, ...] | None:
    """The addresses of its weights and buffers; `None` where weights are not whole and alike, a module has a hook or its own
    `forward`, or decoder and gated blocks, which a step's kernels stand for, have other modules than they were built with.
    (Numbers of theirs changed by hand, such as a router's `top_k`, are not looked at.)"""
    from vlm.decoder import TextDecoder  # which imports this

    like, blocks = model.decoder.embedding.weight, getattr(model, "fusion", nn.ModuleDict()).values()
    if _global_forward_hooks or _global_forward_pre_hooks:
        return None
    if max(model.decoder.config.head_size, *(block.config.head_dim for block in blocks), 0) > WIDEST_HEAD:
        return None
    if _types(model.decoder) != _built(TextDecoder, model.decoder.config):
        return None
    if any(_types(block) != _built(GatedCrossAttention, block.config, len(like[0]), 1) for block in blocks):
        return None
    found = []
    for module in _walk(model):
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return None
        for weight in module._parameters.values():
            if weight is None:
                continue
            if type(weight) is not nn.Parameter or not weight.is_contiguous():
                return None
            if weight.dtype != like.dtype or weight.device != like.device:
                return None
            found.append(weight.data_ptr())
        found += [buffer.data_ptr() for buffer in module._buffers.values() if buffer is not None]
    return tuple(found)


def _walk(module: nn.Module) -> Iterator[nn.Module]:
    """All modules in it, in a fixed order; five times as fast as `modules()`, which each generation would wait for."""
    waiting = [module]
    while waiting:
        module = waiting.pop()
        yield module
        waiting += [child for child in module._modules.values() if child is not None]


def _types(module: nn.Module) -> list[tuple[type, str]]:
    return [(type(m), *m._modules) for m in _walk(module)]


@functools.lru_cache(maxsize=16)
def _built(kind: type[nn.Module], *arguments: Any) -> list[tuple[type, str]]:
    with torch.device("meta"):
        return _types(kind(*arguments))
