"""Which parameters learn, and in which group of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from train.optim.matrices import matrices
from train.optim.width import Widths
from vlm.model import GROUPS, VLM

_TABLES = {
    "latents",
    "time",
    "pos_embed",
    "positional_embedding",
    "cls_token",
    "reg_token",
}  # embeddings that are bare parameters


def freeze(model: VLM, train: Mapping[str, float]) -> None:
    """Only the groups named in `train` learn."""
    for name in GROUPS:
        model.group(name).requires_grad_(name in train)


def parameter_groups(
    model: VLM,
    train: Mapping[str, float],
    lr: float,
    weight_decay: float,
    *,
    muon: bool = False,
    base_width: int | None = None,
) -> list[dict[str, Any]]:
    """Groups `PART/decay` and `PART/plain` for each part that learns: matrices decay; vectors (the experts' stacked biases,
    too), gates, latents and embeddings do not. With `muon` the matrices that it takes are a third group, `PART/muon`. With a
    `base_width` weights whose rate goes by width (train/optim/width.py) have groups of their own, `PART/x0.25/decay`."""
    widths, groups = None if base_width is None else Widths(model, base_width), []
    for name, factor in train.items():
        for kind, parameters in _by_kind(model.group(name), muon):
            decay = 0.0 if kind == "plain" else weight_decay
            for growth, alike in _by_factor(model.group(name), kind, parameters, widths):
                label = f"{name}/{kind}" if growth == 1 else f"{name}/x{growth:.3g}/{kind}"
                rate = lr * factor * growth
                groups.append({"params": alike, "lr": rate, "weight_decay": decay / growth, "name": label})
    return groups


def _by_factor(
    part: nn.Module, kind: str, parameters: list[nn.Parameter], widths: Widths | None
) -> Iterable[tuple[float, list[nn.Parameter]]]:
    """Factors of the rate, and the parameters that have each."""
    if widths is None:
        return [(1.0, parameters)]
    taken = {id(m.weight): m for m in matrices(part)} if kind == "muon" else {}
    found: dict[float, list[nn.Parameter]] = {}
    for p in parameters:
        factor = widths.muon(taken[id(p)]) if kind == "muon" else widths.adamw(p, is_matrix=kind == "decay")
        found.setdefault(factor, []).append(p)
    return found.items()


def _by_kind(part: nn.Module, muon: bool) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The kinds of which the part has a parameter, with all of them."""
    plain = {id(m.weight) for m in part.modules() if isinstance(m, nn.Embedding)}
    plain |= {id(p) for n, p in part.named_parameters() if n.rpartition(".")[2] in _TABLES or n.endswith("bias")}
    plain |= {id(p) for p in part.parameters() if p.ndim < 2}
    taken = {id(m.weight) for m in matrices(part)} - plain if muon else set()
    kinds: dict[str, list[nn.Parameter]] = {"muon": [], "decay": [], "plain": []}
    for parameter in part.parameters():
        kind = "muon" if id(parameter) in taken else "plain" if id(parameter) in plain else "decay"
        kinds[kind].append(parameter)
    return ((kind, parameters) for kind, parameters in kinds.items() if parameters)
