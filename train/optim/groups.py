"""Which parameters learn, and in which group of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from train.optim.matrices import matrices
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
    model: VLM, train: Mapping[str, float], lr: float, weight_decay: float, *, muon: bool = False
) -> list[dict[str, Any]]:
    """Groups `PART/decay` and `PART/plain` for each part that learns: matrices decay; vectors (the experts' stacked biases,
    too), gates, latents and embeddings do not. With `muon` the matrices that it takes are a third group, `PART/muon`."""
    groups = []
    for name, factor in train.items():
        for kind, parameters in _by_kind(model.group(name), muon):
            decay = 0.0 if kind == "plain" else weight_decay
            groups.append({"params": parameters, "lr": lr * factor, "weight_decay": decay, "name": f"{name}/{kind}"})
    return groups


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
