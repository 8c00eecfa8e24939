"""Batches as training has them: a configuration's own sources, tokenizer and packing."""

from __future__ import annotations

import itertools

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.tokenizer import first_texts, train_tokenizer
from train.config import Config, StageConfig
from train.data import stage_mixture
from vlm import Batch
from vlm.load import build_processor
from vlm.processor import Processor


def stage_of(config: Config, name: str) -> StageConfig:
    """Raises `ValueError` where there is none of that name."""
    stage = next((stage for stage in config.stages if stage.name == name), None)
    if stage is None:
        raise ValueError(f"no stage {name!r}; there are {', '.join(s.name for s in config.stages)}")
    return stage


def processor_of(config: Config, mixture: Mixture) -> Processor:
    """With a tokenizer trained on the mixture's own texts."""
    texts = itertools.chain.from_iterable(first_texts(source, config.tokenizer.documents) for source in mixture.sources)
    return build_processor(config.model, train_tokenizer(texts, config.model.decoder.vocab_size))


def batches(config: Config, stage_name: str, count: int, device: str) -> list[Batch]:
    """The first `count` of the stage of that name (`ValueError` where there is none), in its order."""
    stage = stage_of(config, stage_name)
    mixture = stage_mixture(config, stage.mixture, stage.name)
    limits = {"rows": stage.rows, "length": stage.length, "max_images": stage.max_images, "window": stage.window}
    loader = MixtureLoader(mixture, processor_of(config, mixture), **limits)  # type: ignore[arg-type]
    return [step.batch.to(device) for step in itertools.islice(loader, count)]
