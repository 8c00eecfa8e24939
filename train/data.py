"""The LightningDataModule of one stage: its mixture of sources, this rank's loader, and the held-out batches."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from datasets.build import build_mixture
from datasets.loader import MixtureLoader
from datasets.mean_tokens import mean_tokens
from datasets.mixture import Mixture
from train.config import Config, StageConfig
from vlm.batch import Batch
from vlm.processor import Processor


def stage_mixture(config: Config, weights: dict[str, float], name: str) -> Mixture:
    """The sources of `weights`. Each stage orders (and, for generated data, draws) them by a seed of its own."""
    specs = [{"name": source} | config.sources[source] | {"weight": weight} for source, weight in weights.items()]
    return build_mixture(specs, data_root=config.data_root, seed=zlib.crc32(f"{config.run.seed}/{name}".encode()))


class StageData(LightningDataModule):
    """`saved` is a checkpoint's state: data go on exactly after the batch it was saved with.

    What the order depends on beside the configuration is saved, too: sizes of sources, the vocabulary, and measured lengths.
    Raises `ValueError` when one of them is no longer the same.
    """

    def __init__(
        self, config: Config, stage: StageConfig, processor: Processor, saved: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.stage, self.processor = config, stage, processor
        self.state = saved["data_state"] if saved else None
        known = (saved or {}).get(type(self).__qualname__, {})  # Lightning's key
        self.mixture = stage_mixture(config, stage.mixture, stage.name)
        self.facts: dict[str, Any] = {"sizes": {s.name: len(s) for s in self.mixture.sources}, "vocabulary": _digest(processor)}
        self._check(known)
        if stage.shares == "tokens":
            measured = {s.name: mean_tokens(s, processor, stage.length) for s in self.mixture.sources if not known}
            self.facts["tokens_per_sample"] = known.get("tokens_per_sample", measured)
            self.mixture = self.mixture.by_tokens(self.facts["tokens_per_sample"])

    def _check(self, known: Mapping[str, Any]) -> None:
        for name, size in known.get("sizes", {}).items():
            if self.facts["sizes"].get(name) != size:
                now = self.facts["sizes"].get(name, 0)
                raise ValueError(f"source {name!r} has {now:,} samples, and had {size:,} when the run began: its order is lost")
        if known.get("vocabulary", self.facts["vocabulary"]) != self.facts["vocabulary"]:
            raise ValueError(f"{self.config.run.dir}: the tokenizer is not the one that the run has begun with")

    def state_dict(self) -> dict[str, Any]:
        return self.facts

    def train_dataloader(self) -> MixtureLoader:
        trainer: Any = self.trainer
        return MixtureLoader(
            self.mixture,
            self.processor,
            rows=self.stage.rows,
            length=self.stage.length,
            rank=trainer.global_rank,
            world=trainer.world_size,
            workers=self.config.run.workers,
            micro_batches=self.stage.micro_batches,
            max_images=self.stage.max_images,
            window=self.stage.window,
            state=self.state,
        )

    def validation_batches(self, parts: int = 4) -> list[Batch]:
        """The same held-out rows at every call and in every stage, in a few parts; none without a validation mixture."""
        held = self.config.validation
        if not held.mixture:
            return []
        mixture = stage_mixture(self.config, held.mixture, "validation")
        parts = next(p for p in range(min(parts, held.rows), 0, -1) if held.rows % p == 0)
        loader = MixtureLoader(mixture, self.processor, rows=held.rows, length=held.length, micro_batches=parts)
        return [step.batch for _, step in zip(range(parts), loader, strict=False)]


def _digest(processor: Processor) -> str:
    """Of the vocabulary alone: the tokenizers library may write the same tokenizer in another way one day."""
    return hashlib.sha256(json.dumps(sorted(processor.tokenizer.get_vocab().items())).encode()).hexdigest()
