"""Optimizer groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from train.adamw import AdamW
from train.config import OptimConfig, ScheduleConfig
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


def parameter_groups(model: VLM, train: Mapping[str, float], lr: float, weight_decay: float) -> list[dict]:
    """Two groups for each part that learns: matrices decay; vectors (the experts' stacked biases, too), gates, latents and
    embeddings do not."""
    groups = []
    for name, factor in train.items():
        part = model.group(name)
        whole = {id(m.weight) for m in part.modules() if isinstance(m, nn.Embedding)}
        whole |= {id(p) for n, p in part.named_parameters() if n.rpartition(".")[2] in _TABLES or n.endswith("bias")}
        for decays in (True, False):
            chosen = [p for p in part.parameters() if (p.ndim >= 2 and id(p) not in whole) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                groups.append(
                    {
                        "params": chosen,
                        "lr": lr * factor,
                        "weight_decay": decay,
                        "name": f"{name}/{'decay' if decays else 'plain'}",
                    }
                )
    return groups


def build_optimizer(model: VLM, train: Mapping[str, float], config: OptimConfig, lr: float) -> AdamW:
    groups = parameter_groups(model, train, lr, config.weight_decay)
    fused = not groups[0]["params"][0].is_cuda  # there `train.adamw` has a step of its own
    return AdamW(groups, betas=config.betas, eps=config.eps, fused=fused)


def schedule_factor(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """Step → share of the peak learning rate. The first step already learns; the last ends at `final`."""
    warmup = max(1, round(config.warmup * steps))
    decay = max(1, round(config.decay * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.kind == "constant":
            return 1.0
        if config.kind == "wsd":
            left = (steps - step) / decay
            return 1.0 if left >= 1 else config.final + (1 - config.final) * max(0.0, left)
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def build_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, schedule_factor(config, steps))
