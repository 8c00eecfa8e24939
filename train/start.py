"""What a run begins with: its mistakes found before anything is written, its vocabulary, and its first weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer

from datasets.charts.profile import make_profile
from datasets.source import BadSample
from datasets.tokenizer import train_tokenizer
from train.config import Config
from train.data import stage_mixture
from train.monitors import say
from train.parallel import trainer_devices
from vlm.load import load_weights
from vlm.model import GROUPS, VLM
from vlm.sample import Text


def check_run(config: Config) -> None:
    """Open every source and share out every stage's rows. Raises `ValueError` for what would stop the run later."""
    devices = trainer_devices(config.run)
    world = devices["devices"] * devices["num_nodes"]
    for stage in config.stages:
        if stage.rows % (world * stage.micro_batches):
            shares = f"{world} processes with {stage.micro_batches} micro_batches each"
            raise ValueError(f"stage {stage.name!r}: {stage.rows} rows cannot be shared evenly by {shares}")
        stage_mixture(config, stage.mixture, stage.name)
    if config.validation.mixture:
        stage_mixture(config, config.validation.mixture, "validation")
    make_profile(config.eval.profile)


def first_tokenizer(config: Config, saved: Path, other: Tokenizer | None) -> Tokenizer:
    """The run's own when it has begun (`saved` exists), else another run's, a file's, or one trained on the data."""
    path = Path(config.data_root) / config.tokenizer.path if config.tokenizer.path is not None else None
    if saved.exists():
        tokenizer = _read_tokenizer(saved)
        if other is not None and other.to_str() != tokenizer.to_str():
            raise ValueError(f"{saved.parent} has begun with another vocabulary than --init-from's: choose another run.dir")
    elif other is not None:
        tokenizer = other
    elif path is not None:
        tokenizer = _read_tokenizer(path)
    else:
        tokenizer = train_tokenizer(_texts(config), config.model.decoder.vocab_size)
    size, limit = tokenizer.get_vocab_size(), config.model.decoder.vocab_size
    if size > limit:
        raise ValueError(f"the tokenizer has {size:,} tokens, model.decoder.vocab_size is {limit:,}")
    return tokenizer


def first_model(config: Config, other: VLM | None) -> VLM:
    """Seeded weights; where `other` is given, its own wherever a group's shapes agree. What stays new is said."""
    torch.manual_seed(config.run.seed)
    model = VLM(config.model)
    if other is not None:
        _take_groups(model, other)
    return model


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a missing and for a broken file
        raise ValueError(f"tokenizer {path} cannot be read: {error}") from None


def _texts(config: Config) -> Iterator[str]:
    """The first documents of every source that any stage draws from; bad ones are counted when they are drawn."""
    for name in dict.fromkeys(name for stage in config.stages for name in stage.mixture):
        source = stage_mixture(config, {name: 1.0}, "tokenizer").sources[0]
        for index in range(min(config.tokenizer.documents, len(source))):
            try:
                yield from (s.text for s in source.get(0, index).segments if isinstance(s, Text))
            except BadSample:
                continue


def _take_groups(model: VLM, other: VLM) -> None:
    reasons = {}
    for group in GROUPS:
        try:
            load_weights(model.group(group), other.group(group).state_dict(), f"--init-from's {group}")
        except ValueError as error:
            reasons[group] = str(error)
    if len(reasons) == len(GROUPS):
        raise ValueError(reasons["decoder"])
    for group, reason in reasons.items():
        say(f"{group} starts anew: {reason}")
