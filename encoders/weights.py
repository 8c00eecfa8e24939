"""Weights from files that others made: read without running anything they say, and held against the model they are for."""

from __future__ import annotations

import pickle
import traceback
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

UNREAD = "it is no file of tensors alone, and a pickle of anything else is refused, since reading it could run code"


class MisfitError(ValueError):
    """Weights that are not the model's."""


def check_weights(model: nn.Module | Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise `ValueError` naming what misses, is left over or differs in shape; `model` may be its tensors by other names."""
    own = model.state_dict() if isinstance(model, nn.Module) else model
    missing = sorted(own.keys() - weights.keys())
    left_over = sorted(weights.keys() - own.keys())
    differ = [
        f"{n} {tuple(weights[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": differ}
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {what} ({_first(names)})" for what, names in problems.items() if names)
        raise MisfitError(f"{source} does not fit the model: {text}")


def _first(names: Sequence[str]) -> str:
    """Three names, each cut and in one line: they are a stranger's."""
    return ", ".join(" ".join(name[:200].split()) for name in names[:3])


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy weights in. Raises as `check_weights`."""
    check_weights(model, weights, source)
    model.load_state_dict(dict(weights))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name → tensor of a safetensors or PyTorch file, the wrappings of training (`state_dict`, `module.`, averages) taken off.

    Raises `ValueError` in one line for a file that is broken, holds more than tensors, or unfolds to more than its own size.
    """
    from timm.models import load_state_dict  # heavy, and not needed to check weights

    try:
        _refuse_compression(path)
        with warnings.catch_warnings():  # of pickle protocols that it may not know: then it raises
            warnings.simplefilter("ignore")
            state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # the readers raise almost anything on a broken file
        refused = isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError)
        raise ValueError(f"{path} cannot be read: {UNREAD if refused else one_line(error)}") from None
    if not state:
        raise ValueError(f"{path} holds no tensors")
    odd = [name for name, t in state.items() if not isinstance(t, Tensor)]
    if odd:
        raise ValueError(f"{path} holds what is no tensor: {_first(odd)}")
    folded = [name for name, t in state.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()]
    if folded:
        raise ValueError(f"{path}: {_first(folded)} of shape {tuple(state[folded[0]].shape)} is larger than its data")
    return state


def _refuse_compression(path: str | Path) -> None:
    """PyTorch never compresses, and a small archive could unfold to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type for entry in archive.infolist()):
                raise ValueError("it is a compressed archive")


def one_line(error: Exception) -> str:
    """What went wrong, cut to a length that can be read; the class is named where the message may say nothing by itself."""
    reason = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line or ""
    return (reason if type(error) is ValueError else f"{type(error).__name__}: {reason}")[:300]
