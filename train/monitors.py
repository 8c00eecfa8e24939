"""What watches a stage: metrics on disk, held-out loss, checkpoints, the progress line, and a clean stop on a signal.

The order of the callbacks is what makes a resumed run's `metrics.csv` equal to an uninterrupted one's: a step's rows are
written first, then validation's, and only then a checkpoint, after which nothing more is written for that step.
"""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from datasets.loader import StepBatch
from train import checkpoint
from train.config import StageConfig
from train.data import Steps
from train.data_figures import SkippedLog, check_skipped, data_figures, passed_over
from train.module import VLMModule
from train.optim.ema import averaged
from train.parallel import gather_lists, on_any_rank, together
from train.speed import Meter
from vlm.batch import Batch
from vlm.config import DecoderConfig
from vlm.flops import PARTS
from vlm.model import VLM

COLUMNS = ("stage", "step", "tokens", "name", "value")


class Table:
    """A tidy CSV of a run, one figure a row."""

    def __init__(self, path: Path, stage: str, start: int, order: list[str]) -> None:
        self.path, self.stage = path, stage
        self._keep(start, order)
        self.file = self.path.open("a", newline="")
        self.rows = csv.writer(self.file)

    def _keep(self, start: int, order: list[str]) -> None:
        """Drop what a killed run wrote after the checkpoint that we go on from, and a line it left unfinished."""
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [r for r in csv.reader(line for line in file if line.endswith("\n")) if len(r) == len(COLUMNS)][1:]
        before = order[: order.index(self.stage)]
        kept = [r for r in rows if r[0] in before or (r[0] == self.stage and int(r[1]) <= start)]
        fresh = self.path.with_suffix(".new")
        with fresh.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        os.replace(fresh, self.path)

    def write(self, step: int, tokens: int, figures: Mapping[str, float]) -> None:
        self.rows.writerows((self.stage, step, tokens, name, repr(float(value))) for name, value in figures.items())
        self.file.flush()
        os.fsync(self.file.fileno())  # before any checkpoint of this step


class MetricsLog:
    """`metrics.csv` (nothing that depends on the clock), `speed.csv` (the rest) and TensorBoard events, on rank 0."""

    def __init__(self, run_dir: Path, stage: str, start: int, order: list[str]) -> None:
        self.metrics, self.speed = (Table(run_dir / f"{name}.csv", stage, start, order) for name in ("metrics", "speed"))
        self.board = SummaryWriter(str(run_dir / "tensorboard" / stage), purge_step=start + 1)

    def write(self, step: int, tokens: int, figures: Mapping[str, float], speed: Mapping[str, float] | None = None) -> None:
        """`speed` differs from run to run."""
        for table, rows in ((self.metrics, figures), (self.speed, speed or {})):
            table.write(step, tokens, rows)
            for name, value in rows.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.metrics.file.close()
        self.speed.file.close()
        self.board.close()


@torch.no_grad()
def held_out_loss(model: VLM, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Mean loss of a learnt token with the image, with it blanked, and with no image at all."""
    training = model.training
    model.eval()
    sums = {"loss": 0.0, "loss_blank": 0.0, "loss_blind": 0.0}
    learnt = 0.0
    for batch in (b.to(device) for b in batches):
        for name, seen in zip(sums, (batch, batch.with_blank_images(), batch.without_images()), strict=True):
            out = model(seen, with_logits=False)
            sums[name] += float(out.nll)
        learnt += float(out.learnt)
    model.train(training)
    return {f"valid/{name}": value / max(1.0, learnt) for name, value in sums.items()}


def router_figures(counts: Tensor | None, config: DecoderConfig) -> Iterator[tuple[str, float]]:
    """Each expert's share of a layer's pairs, over all tokens and over those that see an image or do not.

    `counts` [L, 2, E] are of the layers that have a router.
    """
    if counts is None:
        return
    layers = [layer for layer in range(config.num_layers) if config.is_moe(layer)]
    for layer, by_sight in zip(layers, counts.cpu(), strict=True):
        views = {"": by_sight.sum(dim=0), "_blind": by_sight[0], "_seeing": by_sight[1]}
        for suffix, pairs in views.items():
            if pairs.sum() > 0:
                for expert, share in enumerate((pairs / pairs.sum()).tolist()):
                    yield f"router/layer{layer}/expert{expert}_share{suffix}", share


def gate_figures(model: VLM) -> Iterator[tuple[str, float]]:
    """tanh of every gate; where each channel has its own, their mean size."""
    for layer, block in model.fusion.items():
        for name, gate in (("attention", block.attention_gate), ("ffn", block.ffn_gate)):
            opened = [math.tanh(alpha) for alpha in gate.tolist()]
            yield f"gate/layer{layer}/{name}", opened[0] if len(opened) == 1 else fmean(map(abs, opened))


class Monitor(Callback):
    """All that happens between two steps, in one place because its order matters."""

    def __init__(
        self,
        log: MetricsLog | None,
        skipped_log: SkippedLog | None,
        directory: Path,
        stage: StageConfig,
        *,
        steps: int,
        log_every: int,
        checkpoint_every: int,
        keep: int,
        validate_every: int,
        max_skipped: float,
        batches: list[Batch],
        peak_tflops: float | None = None,
    ) -> None:
        self.metrics, self.directory, self.stage, self.steps = log, directory, stage, steps
        self.skipped_log, self.max_skipped = skipped_log, max_skipped
        self.log_every, self.checkpoint_every, self.keep = log_every, checkpoint_every, keep
        self.validate_every, self.batches = validate_every, batches
        self.validation: dict[str, float] = {}
        self.skipped = 0  # samples, over all ranks
        self.interrupted: float | None = None  # when a signal asked to stop
        self.finished = False
        self._handlers: dict[int, Any] = {}
        self.progress = Progress(stage.name, steps, stage.rows * stage.length) if log is not None else None
        self.meter = Meter(peak_tflops)

    def on_train_start(self, trainer: Trainer, module: VLMModule) -> None:
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        if trainer.is_global_zero:
            checkpoint.drop_after(self.directory, trainer.global_step)
        _steps_of(module).take_waited()  # for the first step, while workers started
        self.meter.start(module.totals(), module.device, trainer.world_size)
        if self.progress is not None:
            self.progress.start(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: VLMModule, outputs: Any, batch: StepBatch, batch_idx: int) -> None:
        if not batch.last:
            return
        step = trainer.global_step
        stop = on_any_rank(self.interrupted is not None, module.device)
        self.finished = step >= self.steps or module.used_up
        if step % self.log_every == 0 or self.finished:
            self._log(module, step)
        if self.batches and (step % self.validate_every == 0 or self.finished):
            self._validate(trainer, module, step)
        if step % self.checkpoint_every == 0 or self.finished or stop:
            self._tell_skipped(module)
            self._save(trainer, step)
        if self.progress is not None:
            self.progress.update(step, module.figures["loss"])
        trainer.should_stop = self.finished or stop

    def on_train_end(self, trainer: Trainer, module: VLMModule) -> None:
        self._leave()

    def on_exception(self, trainer: Trainer, module: VLMModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.progress is not None:
            self.progress.close()
        if self.metrics is not None:
            self.metrics.close()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.interrupted is None:
            self.interrupted = time.monotonic()
            say(f"\n{signal.Signals(number).name}: stopping after this step")
        elif time.monotonic() - self.interrupted > 1:  # sooner it is the same one: torchrun passes Ctrl-C on
            raise KeyboardInterrupt

    def _log(self, module: VLMModule, step: int) -> None:
        totals, mixture = module.totals(), module.trainer.datamodule.mixture
        waited = max(gather_lists([_steps_of(module).take_waited()]))  # all processes wait for the last of them
        self._tell_skipped(module)
        with together():
            check_skipped(totals, mixture.names, self.max_skipped)
        self.skipped = sum(n for name, n in totals.items() if name.startswith("skipped/"))
        if self.metrics is None:
            return
        figures = {} if module.used_up else {f"train/{name}": value for name, value in module.figures.items()}
        figures |= {f"lr/{group['name']}": group["lr"] for group in module.optimizers().param_groups}
        figures |= {
            "train/skipped_steps": module.bad_steps,
            **dict(data_figures(totals, {source.name: len(source) for source in mixture.sources})),
            **passed_over(mixture.sources),
        }
        figures |= dict(router_figures(module.router_counts, module.model.config.decoder)) | dict(gate_figures(module.model))
        figures |= {f"flop/{part}": totals[f"flop/{part}"] for part in PARTS}
        speed = self.meter.read(totals, waited)
        self.metrics.write(step, self._tokens(step), figures, speed)
        if self.progress is not None:
            self.progress.tell(speed)

    def _tell_skipped(self, module: VLMModule) -> None:
        examples = module.examples()
        if self.skipped_log is not None:
            self.skipped_log.write(examples)

    def _validate(self, trainer: Trainer, module: VLMModule, step: int) -> None:
        if self.metrics is not None:
            with self.meter.paused(), trainer.precision_plugin.forward_context():
                self.validation = self._held_out(module)
            self.metrics.write(step, self._tokens(step), self.validation)

    def _held_out(self, module: VLMModule) -> dict[str, float]:
        """Of the weights, and of their average under names that end in `_ema`."""
        figures = held_out_loss(module.model, self.batches, module.device)
        if module.average is None:
            return figures
        with averaged(module.model, module.average.weights):
            of_average = held_out_loss(module.model, self.batches, module.device)
        return figures | {f"{name}_ema": value for name, value in of_average.items()}

    def _save(self, trainer: Trainer, step: int) -> None:
        with self.meter.paused():
            trainer.save_checkpoint(checkpoint.path_of(self.directory, step))
            if trainer.is_global_zero:
                checkpoint.prune(self.directory, self.keep)

    def _tokens(self, step: int) -> int:
        return step * self.stage.rows * self.stage.length


def _steps_of(module: VLMModule) -> Steps:
    loader: Any = module.trainer.train_dataloader
    return loader


class Progress:
    """Stage, tokens, loss, tokens/s, images/s, the wait for data, time left: a bar on a terminal, otherwise a plain line every
    ten seconds."""

    SECONDS = 10.0

    def __init__(self, stage: str, steps: int, tokens_per_step: int) -> None:
        self.stage, self.steps, self.tokens_per_step = stage, steps, tokens_per_step
        self.bar: tqdm | None = None
        self.rate = 0.0  # tokens/s since the start
        self.images: float | None = None  # a second, as last told
        self.wait: float | None = None  # share of the time that is waited for data, likewise

    def start(self, step: int) -> None:
        self.first, self.began, self.printed = step, time.monotonic(), time.monotonic()
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self.steps * self.tokens_per_step, initial=step * self.tokens_per_step,
                desc=self.stage, unit="tok", unit_scale=True, dynamic_ncols=True,
            )  # fmt: skip

    def tell(self, speed: Mapping[str, float]) -> None:
        """Of what `Meter.read` gives."""
        self.images, self.wait = speed["speed/images_per_second"], speed["data/wait"]

    def update(self, step: int, loss: float) -> None:
        now = time.monotonic()
        tokens = step * self.tokens_per_step
        self.rate = (step - self.first) * self.tokens_per_step / max(1e-9, now - self.began)
        if self.bar is not None:
            known = {} if self.images is None else {"images": f"{self.images:,.0f}/s", "wait": f"{self.wait:.0%}"}
            self.bar.set_postfix(loss=f"{loss:.3f}", **known, refresh=False)
            self.bar.update(tokens - self.bar.n)
        elif now - self.printed > self.SECONDS or step == self.steps:
            self.printed = now
            left = (self.steps - step) * self.tokens_per_step / max(1e-9, self.rate)
            data = "" if self.images is None else f"{self.images:,.0f} images/s, {self.wait:.0%} waiting for data, "
            speed = f"{self.rate:,.0f} tokens/s, {data}{left:.0f} s left"
            say(f"{self.stage}: {tokens:,} tokens ({step}/{self.steps}), loss {loss:.3f}, {speed}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@rank_zero_only
def say(line: str) -> None:
    """One line of progress to standard error, so that standard output stays the command's result."""
    print(line, file=sys.stderr, flush=True)
