"""Models without memory: built on torch's meta device, where a tensor has a shape and no values.

Weights that are about to be read need none made first. What modules draw at random is passed over too: on the meta device the
first normal draw alone imports torch's compiler, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS = (Tensor.normal_, Tensor.uniform_)


class _WithoutDraws(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made within have no memory and no values."""
    with torch.device("meta"), _WithoutDraws():
        yield
