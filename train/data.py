"""The LightningDataModule of one stage: its mixture of sources, this rank's loader, and the held-out batches."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from datasets import build
from datasets.build import ORDER
from datasets.handover import Destination
from datasets.loader import MixtureLoader, StepBatch, WorkerLost
from datasets.mean_tokens import mean_tokens
from datasets.mixture import Mixture
from datasets.shards import MARK, ShardSource
from datasets.source import OfFiles
from train.config import Config, StageConfig
from train.device_copy import DeviceCopy
from train.prefetch import prefetched
from vlm.batch import Batch
from vlm.flops import Load
from vlm.processor import Processor


def stage_mixture(config: Config, weights: dict[str, float], name: str) -> Mixture:
    return build.stage_mixture(config.sources, weights, name, data_root=config.data_root, seed=config.run.seed)


def facts_of(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint keeps of its data beside their position; nothing in the oldest."""
    return saved.get(StageData.__qualname__, {})  # Lightning's key


def check_order(known: Mapping[str, Any], run_dir: str | None) -> None:
    """Raises `ValueError` where a run's samples came in another order than they would now."""
    if known.get("order", 1) != ORDER:
        raise ValueError(
            f"{run_dir} was begun by a version that draws samples in another order: finish it with that version, or choose "
            "another run.dir"
        )


class StageData(LightningDataModule):
    """`saved` is a checkpoint's state: data go on exactly after the batch it was saved with.

    What the order depends on beside the configuration is saved, too: its version, sizes of sources and what their files hold,
    the vocabulary, and measured lengths. Raises `ValueError` when one of them is no longer the same.
    """

    def __init__(
        self, config: Config, stage: StageConfig, processor: Processor, saved: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.stage, self.processor = config, stage, processor
        self.state = saved["data_state"] if saved else None
        known = facts_of(saved or {})
        self.mixture = stage_mixture(config, stage.mixture, stage.name)
        self.facts: dict[str, Any] = {
            "order": ORDER,
            "sizes": {s.name: len(s) for s in self.mixture.sources},
            "fingerprints": {s.name: s.fingerprint for s in self.mixture.sources if isinstance(s, OfFiles)},
            "shards": {s.name: s.marks for s in self.mixture.sources if isinstance(s, ShardSource)},
            "vocabulary": _digest(processor),
        }
        if saved:
            self._check(known)
        if stage.shares == "tokens":
            limits = stage.length, stage.max_images
            measured = {s.name: mean_tokens(s, processor, *limits) for s in self.mixture.sources if not known}
            self.facts["tokens_per_sample"] = known.get("tokens_per_sample", measured)
            self.mixture = self.mixture.by_tokens(self.facts["tokens_per_sample"])

    def _check(self, known: Mapping[str, Any]) -> None:
        check_order(known, self.config.run.dir)
        for name, size in known.get("sizes", {}).items():
            if self.facts["sizes"].get(name) != size:
                now, where = self.facts["sizes"].get(name, 0), self._first_change(name, known)
                raise ValueError(
                    f"source {name!r} has {now:,} samples, and had {size:,} when the run began{where}: its order is lost"
                )
        for name, fingerprint in known.get("fingerprints", {}).items():
            if self.facts["fingerprints"].get(name) != fingerprint:
                where = self._first_change(name, known)
                raise ValueError(f"source {name!r} holds other samples than when the run began{where}: give it back its files")
        if known.get("vocabulary", self.facts["vocabulary"]) != self.facts["vocabulary"]:
            raise ValueError(f"{self.config.run.dir}: the tokenizer is not the one that the run has begun with")

    def _first_change(self, name: str, known: Mapping[str, Any]) -> str:
        """Of a source of shards, in words: the first that is another, or was not there; or that some are missing."""
        source = next((s for s in self.mixture.sources if s.name == name), None)
        before = known.get("shards", {}).get(name)
        if before is None or not isinstance(source, ShardSource):
            return ""
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, source.marks, strict=False))
        same = sum(1 for _ in pairs) // MARK
        if same == len(source.paths):
            return f" (shards are missing after {source.paths[-1]})"
        return f" (the first shard that differs: {source.paths[same]})"

    def state_dict(self) -> dict[str, Any]:
        return self.facts

    def train_dataloader(self) -> Steps:
        trainer: Any = self.trainer
        device = trainer.strategy.root_device
        destination = DeviceCopy(device) if device.type == "cuda" else Destination()
        loader = MixtureLoader(
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
            max_skipped=self.config.run.max_skipped,
            state=self.state,
            destination=destination,
        )
        return Steps(loader, destination, ahead=device.type == "cuda" and loader.workers > 0)

    def validation_batches(self, parts: int = 4) -> list[Batch]:
        """The same held-out rows at every call and in every stage, in a few parts; none without a validation mixture."""
        held = self.config.validation
        if not held.mixture:
            return []
        mixture = stage_mixture(self.config, held.mixture, "validation")
        parts = next(p for p in range(min(parts, held.rows), 0, -1) if held.rows % p == 0)
        most = self.config.run.max_skipped
        loader = MixtureLoader(
            mixture, self.processor, rows=held.rows, length=held.length, micro_batches=parts, max_skipped=most
        )
        return [step.batch for _, step in zip(range(parts), loader, strict=False)]


class Steps:
    """A loader's steps where its `destination` is. What stops it comes as a step, too: ranks that still have data hear of it in
    their next one.

    With `ahead` a thread takes and sends them (train/prefetch.py): for workers and a GPU. Without workers data are made where
    they are asked for, and on a CPU there is nothing to be won.
    """

    def __init__(self, loader: MixtureLoader, destination: Destination, *, ahead: bool) -> None:
        self.loader, self.destination, self.ahead = loader, destination, ahead
        self._waited = 0.0

    def __iter__(self) -> Iterator[StepBatch]:
        steps = self._steps()
        while True:
            before = time.perf_counter()
            step = next(steps)
            self._waited += time.perf_counter() - before
            self.destination.receive(step.batch)
            yield step

    def take_waited(self) -> float:
        """Seconds that whoever asks for steps has stood still for them since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _steps(self) -> Iterator[StepBatch]:
        try:
            yield from self._fetched()
        except (ValueError, WorkerLost) as error:
            failed = self._sent(self.loader.failed(error.with_traceback(None)))  # which would keep the workers
        for micro in itertools.count(1):  # whole steps, as any other: what goes by a step's end comes at one
            yield dataclasses.replace(failed, last=micro % self.loader.micro_batches == 0)

    def _fetched(self) -> Iterator[StepBatch]:
        sent = map(self._sent, self.loader)  # the loader's workers start here
        return prefetched(sent) if self.ahead else sent

    def _sent(self, step: StepBatch) -> StepBatch:
        return dataclasses.replace(step, batch=self.destination.send(step.batch), load=Load.of(step.batch))


def _digest(processor: Processor) -> str:
    """Of what cuts up a text: vocabulary, merges and rules. The library writes a merge as a string or, later, as a pair."""
    written = json.loads(processor.tokenizer.to_str())
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in written["model"].get("merges") or []]
    rules = [written.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor")]
    decides = [sorted(processor.tokenizer.get_vocab().items()), pairs, rules]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
