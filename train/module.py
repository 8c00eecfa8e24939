"""The LightningModule: one training step of any stage.

A step's cross-entropy is a function of the whole step (all ranks, all micro-batches) and so independent of how it was shared
out; the router's losses are those of a micro-batch over all ranks, since a batch's load is only known when it has been routed.
A router's balance bias goes by the load of the whole step, so it moves alike on every rank, once the weights have.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from datasets.loader import StepBatch
from train.config import OptimConfig, StageConfig
from train.data_figures import Example, totals_of, waiting
from train.optim import build_optimizer, build_schedule
from train.parallel import check_together, gather_dicts, gather_lists, stop_all, sum_counters, sum_over_ranks, world_size
from vlm.losses import total_loss
from vlm.model import VLM
from vlm.moe import Router

log = logging.getLogger(__name__)


class NotFinite(RuntimeError):  # noqa: N818 - what was found, as in the message
    """Too many steps in a row without a finite loss and gradient."""


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
        self._left_out = False  # the last step
        self._sums = torch.zeros(3, dtype=torch.float64)  # of the step so far: nll, learnt tokens, tokens
        self._router: Tensor | None = None  # [L, 2, E] of the step so far
        self._totals: Counter[str] = Counter()  # of this rank's data since the stage's start
        self._examples: list[Example] = []

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self.model, self.stage.train, self.optim, self.stage.lr or self.optim.lr)
        schedule = build_schedule(optimizer, self.stage.schedule, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: StepBatch, device: torch.device, dataloader_idx: int) -> StepBatch:
        return dataclasses.replace(batch, batch=batch.batch.to(device))

    def training_step(self, step: StepBatch, batch_idx: int) -> Tensor:
        out = self.model(step.batch, with_logits=False)
        counts = out.nll.new_zeros(1) if out.router is None else out.router.counts
        sums = torch.tensor(
            [step.step_learnt, step.counts.learnt, step.counts.tokens, step.failure is not None],
            dtype=torch.float64,
            device=out.nll.device,
        )
        nll, counts, (step_learnt, learnt, tokens, failed) = sum_over_ranks(out.nll, counts, sums)
        if failed:  # on some rank
            check_together(step.failure)
        self._note(step, float(nll.detach()), float(learnt), float(tokens), None if out.router is None else counts)
        micro = self.stage.micro_batches  # Lightning divides the loss by it; the step's tokens are counted already
        pairs = None if out.router is None else counts.sum(dim=1)
        return total_loss(out.nll * micro, step_learnt, out.router, self.model.config.decoder, counts=pairs) * world_size()

    def _note(self, step: StepBatch, nll: float, learnt: float, tokens: float, router: Tensor | None) -> None:
        self._sums += torch.tensor([nll, learnt, tokens], dtype=torch.float64)
        self._router = router if self._router is None or router is None else self._router + router
        if tokens:  # not of the step that finds all sources used up
            self._totals.update(totals_of(step.counts))
        self._examples += [(self.global_step + 1, example) for example in step.counts.examples]
        if step.last:
            nll, learnt, tokens = self._sums.tolist()
            self.router_counts, self._router = self._router, None
            self._sums.zero_()
            self.data_state, self.used_up = step.state, tokens == 0
            self._totals["data/waiting"] = waiting(step.state)
            self.figures = {"loss": nll / max(1.0, learnt), "tokens": tokens, "learnt": learnt}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient; a step that is not finite, or has nothing to learn, is left out."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.optim.clip))
        self.figures["gradient_norm"] = norm
        finite = torch.isfinite(torch.tensor([norm, self.figures["loss"]])).all()
        self._left_out = bool(not finite or self.used_up)
        if self._left_out:
            for parameter in parameters:
                parameter.grad = None  # AdamW passes over a parameter without gradient: weights and moments stay
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        self.bad_steps += not finite
        if not finite:
            log.warning("step %d skipped: loss %g, gradient norm %g", self.global_step, self.figures["loss"], norm)
        if self.bad_in_a_row >= self.optim.max_bad_steps:
            where = f"stage {self.stage.name!r} stopped at step {self.global_step}"
            steps = f"{self.bad_in_a_row} steps in a row without a finite loss and gradient"
            stop_all(NotFinite(f"{where}: {steps}; lower optim.lr, or look at the data"))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The weights' step, and after it the routers' biases; a step left out, or a frozen decoder, moves neither."""
        super().optimizer_step(*args, **kwargs)
        if self.router_counts is None or self._left_out or "decoder" not in self.stage.train:
            return
        routers = [module for module in self.model.decoder.modules() if isinstance(module, Router)]
        for router, load in zip(routers, self.router_counts.sum(dim=1), strict=True):
            router.rebalance(load)

    def totals(self) -> Counter[str]:
        """Of the data so far, by name (train/data_figures.py); to be called on all ranks."""
        return sum_counters(self._totals)

    def examples(self) -> list[Example]:
        """Bad samples that came up since the last call; to be called on all ranks."""
        found, self._examples = self._examples, []
        return gather_lists(found)

    def on_train_start(self) -> None:
        """The rates of this run's schedule: those in a checkpoint belong to the budget it was made with."""
        schedule: Any = self.lr_schedulers()
        for group, peak, factor in zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = peak * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["data_state"] = gather_dicts(self.data_state or {})
        checkpoint["bad_steps"] = (self.bad_steps, self.bad_in_a_row)
        checkpoint["data_totals"] = dict(self.totals())
        checkpoint["used_up"] = self.used_up

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_steps, self.bad_in_a_row = checkpoint["bad_steps"]
        if self.global_rank == 0:  # one rank's, so that the sum is right
            self._totals = Counter(checkpoint.get("data_totals", {}))  # none in a run from before they were saved
