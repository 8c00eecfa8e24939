"""`python -m train.fit CONFIG`: all stages of a run, then its evaluation and report. The same command resumes.

Each stage is one Lightning `Trainer.fit` over the same module: which groups learn, from which sources and for how long is
data in the configuration. A stage begins from the last one's weights with an optimizer and a warm-up of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from tokenizers import Tokenizer

import vlm
from datasets.tokenizer import train_tokenizer
from eval import cli
from train import checkpoint
from train.config import Config, StageConfig, read_config, to_yaml
from train.data import StageData, stage_mixture
from train.module import NotFinite, VLMModule
from train.monitors import MetricsLog, Monitor, say
from train.optim import freeze
from train.parallel import trainer_devices
from train.results import evaluate_run, evaluate_stage
from train.run_dir import RunDirectory
from vlm.load import build_processor, load_weights
from vlm.model import GROUPS, VLM
from vlm.processor import Processor
from vlm.sample import Text


def fit(config: Config, init_from: str | None = None) -> Path:
    """Run or resume everything; returns the run directory. Raises `ValueError` for a user's mistake."""
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0 and int(os.environ.get("LOCAL_RANK", 0)) == 0
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    run = RunDirectory(Path(config.run.dir), config, writes=first)
    for stage in config.stages:  # every source is opened before anything is trained
        stage_mixture(config, stage.mixture, stage.name)
    processor = _processor(config, run, init_from, first)
    model = _model(config, processor, init_from)
    position = run.position()
    for index in range(position.stage, len(config.stages)):
        stage = config.stages[index]
        path = position.path if index == position.stage else None
        if path is not None and run.is_finished(index, path, stage):
            load_weights(model, checkpoint.load_file(path / checkpoint.WEIGHTS), path)
            _close_stage(config, run, model, processor, stage, first)
            continue
        if not _train(config, run, model, processor, index, path):
            raise KeyboardInterrupt
        _close_stage(config, run, model, processor, stage, first)
    if first:
        evaluate_run(config, run, model, processor)
    return run.path


def _train(config: Config, run: RunDirectory, model: VLM, processor: Processor, index: int, path: Path | None) -> bool:
    """One stage, from its checkpoint if it has one. False when a signal asked to stop."""
    stage, steps, start = config.stages[index], config.steps(config.stages[index]), 0
    state = None
    if path is not None:
        start, state = checkpoint.step_of(path), checkpoint.read_state(path)["data_state"]
        say(f"{stage.name}: going on from step {start:,} of {steps:,}")
    freeze(model, stage.train)
    module = VLMModule(model, stage, config.optim, steps)
    data = StageData(config, stage, processor, state)
    trainer = Trainer(
        **trainer_devices(config.run),
        precision=config.run.precision,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=stage.micro_batches,
        gradient_clip_val=config.optim.clip,
        plugins=[checkpoint.SafeCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    log = MetricsLog(run.path, stage.name, start, [s.name for s in config.stages]) if trainer.is_global_zero else None
    monitor = Monitor(
        log,
        run.stage_dir(index),
        stage,
        steps=steps,
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
        keep=config.run.keep,
        validate_every=config.validation.every,
        batches=data.validation_batches(),
    )
    trainer.callbacks.append(monitor)
    trainer.fit(module, data, ckpt_path=path)
    if not monitor.finished:
        return False
    if trainer.is_global_zero:
        _say_stage(stage, monitor, module)
    return True


def _say_stage(stage: StageConfig, monitor: Monitor, module: VLMModule) -> None:
    figures = "; ".join(f"{name.removeprefix('valid/').replace('_', ' ')} {value:.4f}" for name, value in monitor.validation.items())
    skipped = sum(module.skipped.values())
    extra = f"; {skipped} samples skipped" if skipped else ""
    extra += f"; {module.bad_steps} steps skipped" if module.bad_steps else ""
    say(f"{stage.name} finished: held-out {figures or 'loss not measured'}{extra}")


def _close_stage(config: Config, run: RunDirectory, model: VLM, processor: Processor, stage: StageConfig, first: bool) -> None:
    """Publish the stage's model, and ask its text-only questions."""
    if first:
        vlm.save(run.model, model, processor)
        evaluate_stage(config, run, model, processor, stage)


def _processor(config: Config, run: RunDirectory, init_from: str | None, first: bool) -> Processor:
    """The run's tokenizer: its own when it has begun, else another run's, a file's, or one trained on the data."""
    if run.tokenizer.exists():
        tokenizer = Tokenizer.from_file(str(run.tokenizer))
    elif init_from is not None:
        tokenizer = vlm.load(init_from)[1].tokenizer
    elif config.tokenizer.path is not None:
        tokenizer = _read_tokenizer(Path(config.data_root) / config.tokenizer.path)
    else:
        tokenizer = train_tokenizer(_texts(config), config.model.decoder.vocab_size)
    if tokenizer.get_vocab_size() > config.model.decoder.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size():,} tokens, model.decoder.vocab_size is {config.model.decoder.vocab_size:,}"
        )
    if first and not run.tokenizer.exists():
        fresh = run.path / ".tokenizer.json.new"
        tokenizer.save(str(fresh))
        os.replace(fresh, run.tokenizer)
    return build_processor(config.model, tokenizer)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a missing and for a broken file
        raise ValueError(f"tokenizer.path {path} cannot be read: {error}") from None


def _texts(config: Config):
    """The first documents of every source that any stage draws from."""
    for name in dict.fromkeys(name for stage in config.stages for name in stage.mixture):
        source = stage_mixture(config, {name: 1.0}, "tokenizer").sources[0]
        for index in range(min(config.tokenizer.documents, len(source))):
            yield from (s.text for s in source.get(0, index).segments if isinstance(s, Text))


def _model(config: Config, processor: Processor, init_from: str | None) -> VLM:
    torch.manual_seed(config.run.seed)
    model = VLM(config.model)
    if init_from is not None:
        _take_groups(model, vlm.load(init_from)[0], init_from)
    return model


def _take_groups(model: VLM, source: VLM, name: str) -> None:
    """Start from another model, group by group: one whose shapes differ stays new, and that is said."""
    reasons = {}
    for group in GROUPS:
        try:
            load_weights(model.group(group), source.group(group).state_dict(), f"{name} ({group})")
        except ValueError as error:
            reasons[group] = str(error)
    if len(reasons) == len(GROUPS):
        raise ValueError(reasons["decoder"])
    for group, reason in reasons.items():
        say(f"{group} starts anew: {reason}")


def main(argv: list[str] | None = None) -> None:
    parser = cli.parser("train.fit", __doc__.split("\n\n")[0], "python -m train.fit configs/vlm.yaml --set run.seed=1")
    parser.add_argument("config", help="YAML file; configs/vlm.yaml is the default recipe")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a key by its dotted path")
    parser.add_argument("--init-from", metavar="RUN", help="start from the weights and vocabulary of another run or model directory")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    arguments = parser.parse_args(argv)
    config = read_config(arguments.config, arguments.set)
    if config.run.dir is None:
        run = dataclasses.replace(config.run, dir=str(Path("runs") / Path(arguments.config).stem))
        config = dataclasses.replace(config, run=run)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return
    _quiet()
    try:
        fit(config, arguments.init_from)
    except NotFinite as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _quiet() -> None:
    """Our own lines only: Lightning's advice on loaders and hardware is for its users, not ours."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


if __name__ == "__main__":
    cli.run(main)
