"""Batches as training has them: a configuration's own sources, tokenizer and packing."""

from __future__ import annotations

import itertools

from datasets.build import stage_mixture
from datasets.loader import MixtureLoader
from datasets.tokenizer import first_texts, train_tokenizer
from train.config import Config
from vlm import Batch
from vlm.load import build_processor


def batches(config: Config, stage_name: str, count: int, device: str) -> list[Batch]:
    """The first `count` of the stage of that name (`ValueError` where there is none), in its order."""
    stage = next((stage for stage in config.stages if stage.name == stage_name), None)
    if stage is None:
        raise ValueError(f"no stage {stage_name!r}; there are {', '.join(s.name for s in config.stages)}")
    mixture = stage_mixture(config.sources, stage.mixture, stage.name, data_root=config.data_root, seed=config.run.seed)
    texts = itertools.chain.from_iterable(first_texts(source, config.tokenizer.documents) for source in mixture.sources)
    processor = build_processor(config.model, train_tokenizer(texts, config.model.decoder.vocab_size))
    loader = MixtureLoader(
        mixture, processor, rows=stage.rows, length=stage.length, max_images=stage.max_images, window=stage.window
    )
    return [step.batch.to(device) for step in itertools.islice(loader, count)]
