"""What a run begins with: its mistakes found before anything is written, its vocabulary, and its first weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.charts.profile import make_profile
from datasets.tokenizer import first_texts, train_tokenizer
from encoders import build_encoder, native_pixels
from encoders.weights import check_weights
from train.config import Config, StageConfig
from train.data import stage_mixture
from train.monitors import say
from train.optim.width import check_base, start_at_width
from train.parallel import trainer_devices
from train.run_dir import RunDirectory
from vlm.config import DecoderConfig, ModelConfig
from vlm.decoder import TextDecoder
from vlm.files import read_tokenizer
from vlm.load import build_processor, with_medium
from vlm.meta import on_meta
from vlm.model import GROUPS, VLM
from vlm.processor import Processor

# What may differ where weights are taken over: a vocabulary may grow, losses and starts belong to the training.
_MAY_DIFFER = {
    "encoder": ("pretrained",),
    "resampler": ("start",),
    "fusion": ("gate_init",),
    "decoder": ("vocab_size", "context_length", "balance_loss", "balance_bias_rate", "router_z_loss"),
}


def check_run(config: Config) -> None:
    """Open every source and share out every stage's rows. Raises `ValueError` for what would stop the run later."""
    devices = trainer_devices(config.run)
    world = devices["devices"] * devices["num_nodes"]
    for stage in config.stages:
        if stage.rows % (world * stage.micro_batches):
            shares = f"{world} processes with {stage.micro_batches} micro_batches each"
            raise ValueError(f"stage {stage.name!r}: {stage.rows} rows cannot be shared evenly by {shares}")
        stage_mixture(config, stage.mixture, stage.name)
        check_rope(config, stage)
    if config.validation.mixture:
        stage_mixture(config, config.validation.mixture, "validation")
    if config.optim.base_width is not None:
        _check_width(config.model, config.optim.base_width)
    make_profile(config.eval.profile)


def _check_width(model: ModelConfig, base_width: int) -> None:
    try:
        check_base(model, base_width)
    except ValueError as error:
        raise ValueError(f"optim.base_width: {error}") from None


def check_rope(config: Config, stage: StageConfig) -> None:
    """Raise `ValueError` where a decoder cannot have the stage's rotary positions."""
    try:
        dataclasses.replace(config.model.decoder, rope_scaling=stage.rope_scaling or config.model.decoder.rope_scaling)
    except ValueError as error:
        raise ValueError(f"stage {stage.name!r}: {error}") from None


def first_processor(config: Config, run: RunDirectory, other: Processor | None) -> Processor:
    """With the run's own vocabulary when it has begun, else another model's, a file's, or one trained on the data."""
    other = None if other is None else with_medium(other)
    path = Path(config.data_root) / config.tokenizer.path if config.tokenizer.path is not None else None
    settings: dict[str, Any] = {} if other is None else text_settings(other)
    if run.tokenizer.exists():
        tokenizer, settings = read_tokenizer(run.tokenizer), run.settings()
        if path is not None and path.exists() and read_tokenizer(path).get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{path} is not the tokenizer that {run.path} has begun with: choose another run.dir")
        if other is not None and other.tokenizer.to_str() != tokenizer.to_str():
            raise ValueError(f"{run.path} has begun with another vocabulary than {config.init_from}'s: choose another run.dir")
    elif other is not None:
        tokenizer = other.tokenizer
    elif path is not None:
        tokenizer = read_tokenizer(path)
    else:
        return new_processor(config)
    size, limit = tokenizer.get_vocab_size(), config.model.decoder.vocab_size
    if size > limit:
        raise ValueError(f"the tokenizer has {size:,} tokens, model.decoder.vocab_size is {limit:,}")
    return build_processor(config.model, tokenizer, **settings)


def new_processor(config: Config) -> Processor:
    """With a vocabulary trained on the first documents of every source."""
    size = config.model.decoder.vocab_size
    return build_processor(config.model, train_tokenizer(_texts(config), size))


def text_settings(processor: Processor) -> dict[str, Any]:
    """What a run keeps of a processor beside its tokenizer."""
    return {"special_tokens": processor.special, "chat_template": processor.chat_template}


def first_model(config: Config, other: VLM | TextDecoder | None, *, resumed: bool = False) -> VLM:
    """Seeded weights, or `other`'s own for each group that is configured as its. What stays new is said.

    A decoder must be the one configured (`ValueError`), but may gain tokens: their rows start at the mean of the others'.
    When the run is `resumed` all weights come from its checkpoint, and those of `encoder.pretrained` are not asked for again.
    """
    torch.manual_seed(config.run.seed)
    bare = dataclasses.replace(native_pixels(config.model.encoder), pretrained=None)
    if other is None:
        model = VLM(dataclasses.replace(config.model, encoder=bare) if resumed else config.model)
        model.config = config.model
        if config.optim.base_width is not None:
            start_at_width(model, config.optim.base_width)
        return model
    with on_meta():
        model = VLM(dataclasses.replace(config.model, encoder=bare))
    model.config, model.encoder = config.model, build_encoder(config.model.encoder)
    reasons = {}
    for group in GROUPS:
        reason = _take_group(model, group, other, config.init_from)
        if reason is not None and group == "decoder":
            raise ValueError(reason)
        if reason is not None:
            reasons[group] = reason
            _start_group(model, group)
    for group, reason in reasons.items():
        say(f"{group} starts anew: {reason}")
    return model


def set_context(model: VLM, stages: Sequence[StageConfig]) -> None:
    """Give the decoder the rotary positions of the last of `stages`, which may have them from one before."""
    for stage in stages:
        model.decoder.set_rope(stage.rope_theta, stage.rope_scaling)
    longest = max(model.decoder.config.context_length or 0, *(stage.length for stage in stages))
    model.decoder.config = dataclasses.replace(model.decoder.config, context_length=longest)
    model.config = dataclasses.replace(model.config, decoder=model.decoder.config)


def _texts(config: Config) -> Iterator[str]:
    """The first documents of every source that any stage draws from."""
    for name in dict.fromkeys(name for stage in config.stages for name in stage.mixture):
        source = stage_mixture(config, {name: 1.0}, "tokenizer").sources[0]
        yield from first_texts(source, config.tokenizer.documents)


def _take_group(model: VLM, group: str, other: VLM | TextDecoder, source: str | None) -> str | None:
    """Give the model that group's weights, without a copy; or return in one line why they do not fit."""
    if isinstance(other, TextDecoder) and group != "decoder":
        return f"{source} is a text decoder alone"
    part = other if isinstance(other, TextDecoder) else other.group(group)
    differ = _differences(_shape(model, group), _shape(other, group), _MAY_DIFFER[group])
    if differ:
        return f"model.{group} differs from {source}'s in {differ}"
    weights = part.state_dict()
    if group == "decoder":
        weights = _with_more_rows(_with_balance(model.decoder, weights), model.config.decoder.vocab_size)
    try:
        check_weights(model.group(group), weights, f"{source}'s {group}")
    except ValueError as error:
        return str(error)
    model.group(group).load_state_dict(weights, assign=True)
    return None


def _shape(model: VLM | TextDecoder, group: str) -> Any:
    """What a group computes, as it does now: the encoder with its pixels, the decoder with its rotary positions."""
    if isinstance(model, TextDecoder):
        return model.config
    part = model.group(group)
    return part.config if group in ("encoder", "decoder") else getattr(model.config, group)


def _differences(own: Any, source: Any, may_differ: tuple[str, ...]) -> str:
    """The fields in which two configurations of a group differ, and how."""
    if own is None or source is None:
        return "" if own is source else f"all ({own}, not {source})"
    pairs = {f.name: (getattr(own, f.name), getattr(source, f.name)) for f in dataclasses.fields(own)}
    if isinstance(own, DecoderConfig):
        pairs["head_dim"] = own.head_size, source.head_size  # the default is a number, too
    return ", ".join(f"{name} ({a}, not {b})" for name, (a, b) in pairs.items() if a != b and name not in may_differ)


def _with_balance(decoder: TextDecoder, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the routers' balance as the decoder has it: one that is new starts at 0, one that it lacks goes."""
    own = dict(decoder.named_buffers())
    kept = {name: t for name, t in weights.items() if name in own or not name.endswith("router.bias")}
    return {name: torch.zeros_like(buffer, device="cpu") for name, buffer in own.items()} | kept


def _start_group(model: VLM, group: str) -> None:
    """Random weights for a group that was built on meta; the encoder never was."""
    if group == "encoder" or not any(True for _ in model.group(group).parameters()):
        return
    part: Any = model.group(group).to_empty(device="cpu")
    for module in part.values() if group == "fusion" else [part]:
        module.reset_parameters()


def _with_more_rows(weights: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The tables of tokens, lengthened by their mean where they have less than `rows`. (More do not fit.)"""
    for name in ("embedding.weight", "head.weight"):
        table = weights.get(name)
        if table is not None and len(table) < rows:
            new = table.mean(dim=0, keepdim=True).expand(rows - len(table), -1)
            weights[name] = torch.cat((table, new))
    return weights
