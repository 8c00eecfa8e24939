"""The LightningDataModule of one stage: its mixture of sources, this rank's loader, and the held-out batches."""

from __future__ import annotations

import zlib

from lightning.pytorch import LightningDataModule

from datasets.build import build_mixture
from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from train.config import Config, StageConfig
from vlm.batch import Batch
from vlm.processor import Processor


def stage_mixture(config: Config, weights: dict[str, float], name: str) -> Mixture:
    """The sources of `weights`. Each stage orders (and, for generated data, draws) them by a seed of its own."""
    specs = [{"name": source} | config.sources[source] | {"weight": weight} for source, weight in weights.items()]
    return build_mixture(specs, data_root=config.data_root, seed=zlib.crc32(f"{config.run.seed}/{name}".encode()))


class StageData(LightningDataModule):
    """`state` continues exactly after the batch it was saved with."""

    def __init__(self, config: Config, stage: StageConfig, processor: Processor, state: dict | None = None) -> None:
        super().__init__()
        self.config, self.stage, self.processor, self.state = config, stage, processor, state
        self.mixture = stage_mixture(config, stage.mixture, stage.name)

    def train_dataloader(self) -> MixtureLoader:
        trainer = self.trainer
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
