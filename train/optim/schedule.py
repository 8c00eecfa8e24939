"""The learning rate over a stage."""

from __future__ import annotations

import math
from collections.abc import Callable

from train.config import ScheduleConfig


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
