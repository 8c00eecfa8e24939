"""`python -m train.fit CONFIG`: all stages of a run, then its evaluation and report. The same command resumes.

Each stage is one Lightning `Trainer.fit` over the same module: which groups learn, from which sources and for how long is
data in the configuration. A stage begins from the last one's weights with an optimizer and a warm-up of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch import Tensor

import vlm
from datasets.loader import WorkerLost
from encoders.weights import load_weights
from eval import cli
from train import checkpoint
from train.config import Config, StageConfig, read_config, to_yaml
from train.data import StageData, check_order, facts_of
from train.data_figures import SkippedLog
from train.module import NotFinite, VLMModule
from train.monitors import MetricsLog, Monitor, say
from train.optim.ema import averaged
from train.optim.groups import freeze
from train.parallel import LeftToFirst, checkpoint_activations, compiles, evaluation_device, together, trainer_devices
from train.precision import make_deterministic, precision_arguments
from train.profiling import Profile
from train.results import evaluate_run, evaluate_stage
from train.run_dir import RunDirectory
from train.start import check_run, first_model, first_processor, set_context, text_settings
from vlm.compile import compile_blocks
from vlm.model import VLM
from vlm.processor import Processor

AFTER_INTERRUPT = ": the same command goes on from the last checkpoint"


def fit(config: Config, init_from: str | None = None) -> Path:
    """Run or resume everything in `config.run.dir`; returns it. Raises `ValueError` for a user's mistake.

    `init_from` replaces the configuration's. Once training has begun nothing is read from there again.
    """
    first = rank_zero_only.rank == 0
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    if config.run.deterministic:
        make_deterministic()
    run = RunDirectory(Path(config.run.dir), config)
    try:
        _all_stages(run, init_from or config.init_from, first)
    finally:
        run.release()
    return run.path


def _all_stages(run: RunDirectory, init_from: str | None, first: bool) -> None:
    if first:  # the others might come when it has already begun
        run.check()
    check_run(run.config)
    position = run.position()
    init_from = run.origin() if position.path is not None else init_from or run.origin()
    config = run.config = dataclasses.replace(run.config, init_from=init_from)
    other, its_processor = vlm.load(init_from) if init_from is not None and position.path is None else (None, None)
    processor = first_processor(config, run, its_processor)
    model = first_model(config, other, resumed=position.path is not None)
    del other  # its weights are the model's now
    if config.run.checkpoint_activations == "blocks":
        checkpoint_activations(model)
    if compiles(config.run):
        compile_blocks(model, config.run.activation_memory)
    elif config.run.activation_memory != 1 and first:
        say("run.activation_memory: all is kept, as blocks are not compiled here (run.compile)")
    if first:
        run.begin(processor.tokenizer, text_settings(processor))
        for line in run.changed_budgets(position.stage):
            say(line)
    for index in range(position.stage, len(config.stages)):
        path = position.path if index == position.stage else None
        set_context(model, config.stages[: index + 1])
        average = _stage(config, run, model, processor, index, path)
        if first:
            vlm.save(run.model, model, processor)
        if first and average is not None:
            with averaged(model, average):
                vlm.save(run.model_ema, model, processor)
        del average  # the next stage has its own
        if first:
            model.to(evaluation_device(config.run))  # Lightning leaves it on the CPU
            evaluate_stage(config, run, model, processor, config.stages[index])
    if first:
        model.to(evaluation_device(config.run))
        evaluate_run(config, run, model, processor)


def _stage(
    config: Config, run: RunDirectory, model: VLM, processor: Processor, index: int, path: Path | None
) -> dict[str, Tensor] | None:
    """Train one stage, or what its checkpoint at `path` leaves of it; returns the average of its weights, with `optim.ema`.
    `KeyboardInterrupt` when a signal asked to stop."""
    stage, steps, saved = config.stages[index], config.steps(config.stages[index]), None
    if path is not None:
        if run.is_finished(index, path):
            if index + 1 < len(config.stages):
                check_order(facts_of(checkpoint.read_state(path)), config.run.dir)
            load_weights(model, load_file(path / checkpoint.WEIGHTS), path)
            return checkpoint.read_average(path)
        say(f"{stage.name}: going on from step {checkpoint.step_of(path):,} of {steps:,}")
        saved = checkpoint.read_state(path)
    freeze(model, stage.train)
    module = VLMModule(model, stage, config.optim, steps)
    trainer = _trainer(config, stage, steps)
    with together():
        data = StageData(config, stage, processor, saved)
        monitor = _monitor(config, run, data, index, path, writes=trainer.is_global_zero)
    if config.run.profile and trainer.is_global_zero:
        trainer.callbacks.append(Profile(run.path / "profile" / stage.name, config.run.profile))
    trainer.callbacks.append(monitor)
    try:
        trainer.fit(module, data, ckpt_path=path)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if not monitor.finished:
        raise KeyboardInterrupt
    _say_stage(monitor, module)
    return None if module.average is None else module.average.weights


def _trainer(config: Config, stage: StageConfig, steps: int) -> Trainer:
    return Trainer(
        **trainer_devices(config.run),
        **precision_arguments(config.run.precision, [checkpoint.SafeCheckpointIO()]),
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=stage.micro_batches,
        gradient_clip_val=config.optim.clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _monitor(config: Config, run: RunDirectory, data: StageData, index: int, path: Path | None, writes: bool) -> Monitor:
    stage, start = config.stages[index], 0 if path is None else checkpoint.step_of(path)
    names = [s.name for s in config.stages]
    return Monitor(
        MetricsLog(run.path, stage.name, start, names) if writes else None,
        SkippedLog(run.path, stage.name, start, names, data.mixture.sources) if writes else None,
        run.stage_dir(index),
        stage,
        steps=config.steps(stage),
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
        keep=config.run.keep,
        validate_every=config.validation.every,
        max_skipped=config.run.max_skipped,
        batches=data.validation_batches() if writes else [],
        peak_tflops=config.run.peak_tflops,
    )


def _say_stage(monitor: Monitor, module: VLMModule) -> None:
    figures = "; ".join(
        f"{name.removeprefix('valid/').replace('_', ' ')} {value:.4f}" for name, value in monitor.validation.items()
    )
    extra = f"; {monitor.skipped} samples skipped" if monitor.skipped else ""
    extra += f"; {module.bad_steps} steps skipped" if module.bad_steps else ""
    if module.used_up:
        extra += f"; its sources were used up after {module.global_step - 1:,} of {monitor.steps:,} steps"
    say(f"{module.stage.name} finished: held-out {figures or 'loss not measured'}{extra}")


def main(argv: list[str] | None = None) -> None:
    parser = cli.parser("train.fit", __doc__.split("\n\n")[0], "python -m train.fit configs/vlm.yaml --set run.seed=1")
    parser.add_argument("config", help="YAML file; configs/vlm.yaml is the default recipe")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a key by its dotted path"
    )
    parser.add_argument(
        "--init-from", metavar="RUN", help="start from the weights and vocabulary of a run or model directory (key: init_from)"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    arguments = parser.parse_args(argv)
    config = read_config(arguments.config, arguments.set)
    if arguments.init_from is not None:
        config = dataclasses.replace(config, init_from=arguments.init_from)
    if config.run.dir is None:
        run = dataclasses.replace(config.run, dir=str(Path("runs") / Path(arguments.config).stem))
        config = dataclasses.replace(config, run=run)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return
    _quiet()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's, outside training, as Ctrl-C
    try:
        fit(config)
    except (NotFinite, WorkerLost) as error:
        say(f"error: {error}")
        sys.exit(1)
    except LeftToFirst:
        pass  # and code 0: Lightning kills the first, which has more to say, when another leaves with a code of its own


def _quiet() -> None:
    """Our own lines only, once each: Lightning's advice on loaders and hardware is for its users, not ours."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.basicConfig(
        format="%(levelname)s: %(message)s", level=logging.WARNING if rank_zero_only.rank == 0 else logging.ERROR
    )
    seen: set[str] = set()  # a source is opened for each stage, and has the same to say each time
    logging.getLogger().handlers[0].addFilter(lambda record: not (record.getMessage() in seen or seen.add(record.getMessage())))
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of a table with one row


if __name__ == "__main__":
    cli.run(main, AFTER_INTERRUPT)
