"""The data of a configuration alone, without a model: what each picture costs on its way, and what the whole loader gives.

`python -m tests.bench.feed CONFIG [--set KEY=VALUE ...] [--stage NAME] [--workers N] [--steps N]`.

`ms` is processor time of one process for each picture (each document, of sources without pictures), of the stage's mixture and
of each of its sources alone: `fetch` a source reads or makes up a sample, `tokenize`, `pixels` decodes or draws it and fits it
to the encoder, `collate` writes rows into tensors, `pack` is all else, such as choosing documents and counting. A timer around
each call is counted in. `loader` is what train.fit iterates over, with its data processes, in wall time: pictures, steps and
tokens a second; `handover_ms` is processor time for each picture of the process that receives it. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch

from datasets.counts import Counts
from datasets.loader import MixtureLoader, StepBatch
from datasets.mixture import Mixture
from tests.bench.measure import Figures, commit, hardware, positive, rounded, versions
from tests.bench.real import processor_of, stage_of
from train.config import Config, StageConfig, read_config
from train.data import StageData, stage_mixture
from vlm import command
from vlm.processor import Processor

STAGES = {"encode_text": "tokenize", "with_pixels": "pixels", "collate": "collate"}  # method of a processor → stage of the way
WARM = 4  # steps before those that are measured: caches fill, and data processes are ahead as far as they go


class Timed:
    """Another object; what calls of some of its methods take is added to `seconds`, by the name of a stage."""

    def __init__(self, inner: Any, stages: dict[str, str], seconds: dict[str, float]) -> None:
        self._inner, self._stages, self._seconds = inner, stages, seconds

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        stage = self._stages.get(name)
        return found if stage is None else lambda *given, **named: self._time(stage, found, given, named)

    def _time(self, stage: str, call: Any, given: tuple, named: dict) -> Any:
        start = time.process_time()
        try:
            return call(*given, **named)
        finally:
            self._seconds[stage] += time.process_time() - start


def main(arguments: list[str] | None = None) -> Figures:
    options = _parser().parse_args(arguments)
    workers = [] if options.workers is None else [f"run.workers={options.workers}"]
    config = read_config(options.config, [*options.set, *workers])
    torch.set_num_threads(1)
    stage = stage_of(config, options.stage or config.stages[0].name)
    mixture = stage_mixture(config, stage.mixture, stage.name)
    processor = processor_of(config, mixture)
    alone = {s.name: Mixture([s], [1.0]) for s in mixture.sources} if len(mixture.sources) > 1 else {}
    line = {
        "bench": "feed",
        "ms": {name: costs(m, processor, stage, options.steps) for name, m in {"all": mixture, **alone}.items()},
        "loader": rates(config, stage, processor, options.steps),
        "hardware": hardware("cpu"),
        "versions": versions(),
        "commit": options.commit or commit(),
        "config": {name: getattr(options, name) for name in ("config", "set", "steps")} | {"stage": stage.name},
    }
    print(json.dumps(line), flush=True)
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, as of train.fit")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a key")
    parser.add_argument("--stage", metavar="NAME", help="of the configuration (default: its first)")
    parser.add_argument("--workers", type=int, metavar="N", help="data processes (default: run.workers)")
    parser.add_argument("--steps", type=positive, default=20, metavar="N", help="measured in each case (default 20)")
    parser.add_argument("--commit", help="default: git's")
    return parser


def costs(mixture: Mixture, processor: Processor, stage: StageConfig, steps: int) -> Figures:
    """Milliseconds of processor time a picture at each stage of the way, in this process."""
    seconds = dict.fromkeys(("fetch", *STAGES.values()), 0.0)
    sources = [Timed(source, {"get": "fetch"}, seconds) for source in mixture.sources]
    timed = Mixture(sources, mixture.weights, mixture.epochs, mixture.used_up)
    limits = {"rows": stage.rows, "length": stage.length, "max_images": stage.max_images, "window": stage.window}
    feed = iter(MixtureLoader(timed, Timed(processor, STAGES, seconds), **limits))  # type: ignore[arg-type]
    take(feed, WARM)
    seconds.update(dict.fromkeys(seconds, 0.0))
    start = time.process_time()
    counts = take(feed, steps)
    whole = time.process_time() - start
    seconds["pack"] = whole - sum(seconds.values())
    number = counts.images or counts.documents
    return {name: rounded(1e3 * spent / number) for name, spent in {**seconds, "whole": whole}.items()}


def rates(config: Config, stage: StageConfig, processor: Processor, steps: int) -> Figures:
    """What the loader that train.fit uses gives a second, all its processes together."""
    data = StageData(config, stage, processor)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=device)
    )
    feed = iter(data.train_dataloader())
    micro = stage.micro_batches
    take(feed, WARM * micro)
    start, received = time.perf_counter(), time.process_time()
    counts = take(feed, steps * micro)
    wall, received = time.perf_counter() - start, time.process_time() - received
    number = counts.images or counts.documents
    return {
        "workers": config.run.workers,
        "images_per_second": rounded(counts.images / wall),
        "steps_per_second": rounded(steps / wall),
        "tokens_per_second": rounded(counts.tokens / wall),
        "images_per_step": rounded(counts.images / steps),
        "handover_ms": rounded(1e3 * received / number) if config.run.workers else 0.0,
    }


def take(feed: Iterator[StepBatch], batches: int) -> Counts:
    """What stands in the next batches. Raises `ValueError` where they end, with the reason."""
    total = Counts()
    for batch in itertools.islice(feed, batches):
        if batch.failure:
            raise ValueError(str(batch.failure))
        total += batch.counts
    if not total.documents:
        raise ValueError("the stage's sources are used up: fewer steps, or more epochs")
    return total


if __name__ == "__main__":
    command.run(main)
