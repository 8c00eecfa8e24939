"""The optimizer and the schedule of a stage, as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from train.config import OptimConfig, ScheduleConfig
from train.optim.adamw import AdamW
from train.optim.groups import parameter_groups
from train.optim.matrices import matrices
from train.optim.muon import Muon
from train.optim.schedule import schedule_factor
from vlm.model import VLM


def build_optimizer(model: VLM, train: Mapping[str, float], config: OptimConfig, lr: float) -> AdamW:
    """Of the kind that `config` names, over the parts that `train` names."""
    groups = parameter_groups(model, train, lr, config.weight_decay, muon=config.kind == "muon", base_width=config.base_width)
    fused = not groups[0]["params"][0].is_cuda  # there `AdamW` has a step of its own
    options: dict[str, Any] = {"betas": config.betas, "eps": config.eps, "fused": fused}
    if config.kind == "adamw":
        return AdamW(groups, **options)
    taken = {id(p) for group in groups if group["name"].endswith("/muon") for p in group["params"]}
    found = (matrix for name in train for matrix in matrices(model.group(name)))
    return Muon(groups, [matrix for matrix in found if id(matrix.weight) in taken], **options)


def build_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, steps: int) -> LambdaLR:
    """Every group's rate over `steps`."""
    return LambdaLR(optimizer, schedule_factor(config, steps))
