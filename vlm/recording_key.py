"""What a recording of a model depends on, and whether there may be one."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from vlm.writer import Writer

WIDEST_HEAD = 128  # wider ones take more shared memory than some GPUs have


def recording_key(model: Writer) -> Hashable | None:
    """Beside shapes: configuration, where its weights are, and what torch was told.

    `None` where there is none: it takes weights on a GPU, in half precision and used in it, and a model as it was built.
    """
    weight = model.decoder.embedding.weight
    if not weight.is_cuda or weight.dtype not in (torch.bfloat16, torch.float16):
        return None
    addresses = None if torch.is_autocast_enabled("cuda") or not _has_triton() else as_built(model)
    return addresses and (model.decoder.config, addresses, model.training, torch.is_inference_mode_enabled())


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def as_built(model: Writer) -> tuple[int, ...] | None:
    """The addresses of its weights and buffers; `None` where weights are not whole and alike, a module has a hook, or one that
    a step's kernels stand for is wrapped in another. One walk, as each generation begins with it."""
    like, blocks = model.decoder.embedding.weight, getattr(model, "fusion", nn.ModuleDict()).values()
    if max(model.decoder.config.head_size, *(block.config.head_dim for block in blocks), 0) > WIDEST_HEAD:
        return None
    replaced = {model.decoder, *blocks}
    walk, found = [(model, False)], []
    while walk:
        module, inside = walk.pop()
        inside = inside or module in replaced
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        if inside and type(module).__module__.partition(".")[0] not in ("torch", "vlm"):
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
        walk += [(child, inside) for child in module._modules.values() if child is not None]
    return tuple(found)
