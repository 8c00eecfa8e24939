"""`run.profile: N`: what N steps of each stage spend their time on, by torch's profiler.

RUN/profile/STAGE/trace.json.gz is a Chrome trace (for chrome://tracing or ui.perfetto.dev), table.txt lists operations and
kernels by their own time. The first steps, in which memory is taken and kernels are chosen or compiled, are passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile, schedule

from datasets.loader import StepBatch
from train.monitors import say

PASSED_OVER = 10  # steps
ROWS = 40  # of the table


class Profile(Callback):
    """Profiles the process that it is in, into `directory`. A stage that ends before its `steps` leaves what there was; what
    follows the last of them, a validation say, is not taken for training."""

    def __init__(self, directory: Path, steps: int) -> None:
        self.directory, self.steps, self.ended = directory, 0, False
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device == "cuda" else [])],
            schedule=schedule(skip_first=PASSED_OVER - 1, wait=0, warmup=1, active=steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: StepBatch, index: int) -> None:
        if not batch.last:
            return
        self.steps += 1
        if trainer.global_step >= trainer.max_steps:
            self._end()
        else:
            self.profile.step()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.profile.stop()
        if self.steps <= PASSED_OVER:
            name = self.directory.name
            say(f"run.profile: {name} took {self.steps} steps here, of which the first {PASSED_OVER} are passed over")

    def _write(self, found: profile) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(self.directory / "trace.json.gz"))
        table = found.key_averages().table(sort_by=f"self_{self.device}_time_total", row_limit=ROWS)
        (self.directory / "table.txt").write_text(table, encoding="utf-8")
