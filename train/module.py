"""The LightningModule: one training step of any stage.

A step's cross-entropy is a function of the whole step (all ranks, all micro-batches) and so independent of how it was shared
out; the router's losses are those of a micro-batch over all ranks, since a batch's load is only known when it has been routed.
A router's balance bias goes by the load of the whole step, so it moves alike on every rank, once the weights have.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from datasets.counts import Counts
from datasets.loader import StepBatch
from train.config import OptimConfig, StageConfig
from train.data_figures import Example, totals_of, waiting
from train.host_copy import HostCopy
from train.optim.adamw import AdamW
from train.optim.build import build_optimizer, build_schedule
from train.optim.ema import Average
from train.parallel import check_together, gather_dicts, gather_lists, stop_all, sum_counters, sum_over_ranks, world_size
from vlm.flops import Load, flops
from vlm.losses import total_loss
from vlm.model import VLM
from vlm.moe import Router

log = logging.getLogger(__name__)


class NotFinite(RuntimeError):  # noqa: N818 - what was found, as in the message
    """Too many steps in a row without a finite loss and gradient."""


class _Micro(NamedTuple):
    """What a step's end wants to know of a micro-batch, without its pictures."""

    counts: Counts
    state: dict[str, dict] | None
    failure: Exception | None
    load: Load


class VLMModule(LightningModule):
    """`figures` holds the last step's numbers, summed over ranks, for the callbacks."""

    def __init__(self, model: VLM, stage: StageConfig, optim: OptimConfig, steps: int) -> None:
        super().__init__()
        self.model, self.stage, self.optim, self.steps = model, stage, optim, steps
        self.figures: dict[str, float] = {}
        self.router_counts: Tensor | None = None  # [L, 2, E] of the last step, all ranks
        self.data_state: dict[str, dict] | None = None  # this rank's lanes after the last whole step
        self.used_up = False  # no source has anything left, on any rank
        self.bad_steps = self.bad_in_a_row = 0
        self.average: Average | None = None  # of the weights, with `optim.ema`
        self._saved_average: dict[str, Any] | None = None  # of the checkpoint that training goes on from
        self._left_out = False  # the last step
        self._numbers: HostCopy  # of the step under way: norm of its gradient, and the sums below
        self._micro: list[_Micro] = []  # of the step so far
        self._sums: list[Tensor] = []  # for each of them: nll, learnt tokens, tokens, failures
        self._router: Tensor | None = None  # [L, 2, E] of the step so far
        self._totals: Counter[str] = Counter()  # of this rank's data since the stage's start
        self._examples: list[Example] = []

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self.model, self.stage.train, self.optim, self.stage.lr or self.optim.lr)
        schedule = build_schedule(optimizer, self.stage.schedule, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: StepBatch, device: torch.device, dataloader_idx: int) -> StepBatch:
        """`train.data.Steps` hands out steps that are there already."""
        return dataclasses.replace(batch, batch=batch.batch.to(device))

    def training_step(self, step: StepBatch, batch_idx: int) -> Tensor:
        out = self.model(step.batch, with_logits=False)
        counts = out.nll.new_zeros(1) if out.router is None else out.router.counts
        known = (step.step_learnt, step.counts.learnt, step.counts.tokens, step.failure is not None)
        sums = torch.stack([out.nll.new_full((), float(n), dtype=torch.float64) for n in known])
        nll, counts, sums = sum_over_ranks(out.nll, counts, sums)
        self._micro.append(_Micro(step.counts, step.state, step.failure, step.load or Load.of(step.batch)))
        self._sums.append(torch.cat((nll.detach().double()[None], sums[1:])))
        if out.router is not None:
            self._router = counts if self._router is None else self._router + counts
        micro = self.stage.micro_batches  # Lightning divides the loss by it; the step's tokens are counted already
        pairs = None if out.router is None else counts.sum(dim=1)
        return total_loss(out.nll * micro, sums[0], out.router, self.model.config.decoder, counts=pairs) * world_size()

    def _end_step(self) -> None:
        """Read the step's numbers, all at once: here alone the host waits for the device (and in vlm/rope.py, with
        `rope_scaling: dynamic`). Where a rank has failed, all stop."""
        norm_read, *read = self._numbers.read()
        rows = [read[i : i + 4] for i in range(0, len(read), 4)]
        nll, learnt, tokens, failed = map(sum, zip(*rows, strict=True))
        micro, self._micro, self._sums = self._micro, [], []
        self.router_counts, self._router = self._router, None
        if failed:
            check_together(next((step.failure for step in micro if step.failure is not None), None))
        for step, (*_, tokens_of_micro, _) in zip(micro, rows, strict=True):
            if tokens_of_micro:  # not of the step that finds all sources used up
                self._totals.update(totals_of(step.counts))
                arithmetic = flops(self.model.config, step.load, self.stage.train)
                self._totals.update({f"flop/{part}": n for part, n in arithmetic.items()})
            self._examples += [(self.global_step + 1, example) for example in step.counts.examples]
        self.data_state, self.used_up = micro[-1].state, tokens == 0
        self._totals["data/waiting"] = waiting(micro[-1].state)
        self.figures = {"loss": nll / max(1.0, learnt), "tokens": tokens, "learnt": learnt, "gradient_norm": norm_read}

    def configure_gradient_clipping(
        self,
        optimizer: AdamW,  # type: ignore[override]
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient. A step that is not finite, has nothing to learn, or in which a rank failed is
        left out: the device itself decides, so that the optimizer's work lies ready when the gradients are."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.optim.clip).detach().double()
        nll, _, tokens, failed = torch.stack(self._sums).sum(dim=0)
        optimizer.left_out = ~(norm.isfinite() & nll.isfinite()) | (tokens == 0) | (failed > 0)
        self._numbers = HostCopy(torch.cat((norm[None], *self._sums)))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The weights' step, and after it their average and the routers' biases. A step left out moves none of them, and a
        frozen decoder has no biases to move."""
        super().optimizer_step(*args, **kwargs)
        self._end_step()
        self._judge_step()
        if self.average is not None and not self._left_out:
            self.average.update()
        if self.router_counts is None or self._left_out or "decoder" not in self.stage.train:
            return
        routers = [module for module in self.model.decoder.modules() if isinstance(module, Router)]
        for router, load in zip(routers, self.router_counts.sum(dim=1), strict=True):
            router.rebalance(load)

    def _judge_step(self) -> None:
        """Was the step left out? Too many in a row that are not finite stop all."""
        loss, norm = self.figures["loss"], self.figures["gradient_norm"]
        finite = math.isfinite(loss) and math.isfinite(norm)
        self._left_out = not finite or self.used_up
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        self.bad_steps += not finite
        if not finite:
            log.warning("step %d skipped: loss %g, gradient norm %g", self.global_step, loss, norm)
        if self.bad_in_a_row >= self.optim.max_bad_steps:
            where = f"stage {self.stage.name!r} stopped at step {self.global_step}"
            steps = f"{self.bad_in_a_row} steps in a row without a finite loss and gradient"
            stop_all(NotFinite(f"{where}: {steps}; lower optim.lr, or look at the data"))

    def totals(self) -> Counter[str]:
        """Of the data so far, by name (train/data_figures.py); to be called on all ranks."""
        return sum_counters(self._totals)

    def examples(self) -> list[Example]:
        """Bad samples that came up since the last call; to be called on all ranks."""
        found, self._examples = self._examples, []
        return gather_lists(found)

    def on_train_start(self) -> None:
        """The average of the weights where they are now, and the rates of this run's schedule: those in a checkpoint belong to
        the budget it was made with."""
        if self.optim.ema is not None:
            self.average = Average(self.model, self.optim.ema)
            if self._saved_average is not None:
                self.average.restore(self._saved_average)
                self._saved_average = None
        schedule: Any = self.lr_schedulers()
        for group, peak, factor in zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = peak * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["data_state"] = gather_dicts(self.data_state or {})
        checkpoint["bad_steps"] = (self.bad_steps, self.bad_in_a_row)
        checkpoint["data_totals"] = dict(self.totals())
        checkpoint["used_up"] = self.used_up
        if self.average is not None:
            checkpoint["average"] = self.average.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_steps, self.bad_in_a_row = checkpoint["bad_steps"]
        self._saved_average = checkpoint.get("average")
        if self.global_rank == 0:  # one rank's, so that the sum is right
            self._totals = Counter(checkpoint.get("data_totals", {}))  # none in a run from before they were saved
