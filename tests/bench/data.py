"""Throughput of the data engine on image-text pairs: JPEG decode, resize, tokenize, pack, against webdataset's plain pipeline.

`python -m tests.bench.data [--pairs 200] [--rounds 9] [--side 256] [--size 224]`.
All read the same shards, resize to the same square (bicubic, antialiased), tokenize with the same tokenizer and hand out
batches of tensors; webdataset's rows are one pair each, padded, ours are packed. `webdataset` is as its documentation has it:
Pillow decodes and resizes. `webdataset_torch` is given our image transform with `backend="torch"`, so that what the engine
does and what the resize does can be told apart. The limits are those libraries alone, without any engine around them.

In one process all take turns by `--pairs` pairs and `--rounds` rounds, in processor time, which other work on the machine moves
less than wall time: rates are each one's best round, ratios the median over rounds of neighbours in time. With workers: wall
time of four times the pairs, processor time of the process that receives, highest resident memory of a worker. Pairs are
generated: noise over gradients. Prints one line of JSON, in pairs a second.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
import webdataset
from torch.utils.data import DataLoader
from torchvision.io import decode_jpeg

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.shards import ShardSource, ShardWriter
from datasets.text import StdlibSource
from datasets.tokenizer import train_tokenizer
from tests.bench.measure import commit, hardware, positive, versions
from vlm import command
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text

LENGTH, ROWS = 512, 8
RUNS = 3  # of each with workers
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage
Engine = Callable[[Path, Processor, int], Iterator[int]]  # shards, processor, workers → pairs in each batch, without end


def pairs(count: int, side: int, seed: int = 0) -> Iterator[Sample]:
    """Pictures with detail in them, and captions of 10 to 60 words."""
    chance, words = (
        random.Random(seed),
        ("chart", "of", "sales", "by", "region", "and", "year", "with", "bars", "above", "a", "line"),
    )
    noise = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, side)[:, None, None] + np.linspace(0, 55, side)[None, :, None]
    for i in range(count):
        coarse = PIL.Image.fromarray(noise.integers(0, 255, (side // 4, side // 4, 3), dtype=np.uint8)).resize((side, side))
        pixels = (0.5 * ramp + 0.5 * np.asarray(coarse)).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        yield Sample((Image(buffer.getvalue()), Text(" ".join(chance.choices(words, k=chance.randrange(10, 60))))), str(i))


def ours(folder: Path, processor: Processor, workers: int) -> Iterator[int]:
    mixture = Mixture([ShardSource(folder)], [1.0])
    for step in MixtureLoader(mixture, processor, rows=ROWS, length=LENGTH, workers=workers):
        yield step.counts.documents


def theirs(folder: Path, processor: Processor, workers: int) -> Iterator[int]:
    """webdataset as its documentation has it: decode, map, batch, in a DataLoader."""
    transform, by_pillow = processor.image, processor.image.backend == "pillow"

    def resized(image: PIL.Image.Image) -> torch.Tensor:
        small = image.resize((transform.size, transform.size), PIL.Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()

    def prepare(sample: tuple) -> tuple:
        image, record = sample
        tokens = torch.full((128,), processor.pad_id)
        ids = processor.tokenize(record["segments"][1]["text"])[:128]
        tokens[: len(ids)] = torch.tensor(ids)
        return resized(image) if by_pillow else transform(image), tokens

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).repeat().shuffle(100)
    dataset = dataset.decode("pil") if by_pillow else dataset.decode(only="json")
    dataset = dataset.to_tuple("0.jpg", "json").map(prepare).batched(32)
    for images, _ in DataLoader(dataset, batch_size=None, num_workers=workers):
        yield len(images)


def limits(folder: Path, size: int) -> dict[str, Iterator[int]]:
    """The libraries alone: decoding, and decoding with resizing."""
    source = ShardSource(folder, shuffle=False)
    data = [source.get(0, i).segments[0].data for i in range(min(300, len(source)))]

    def by_pillow(encoded: bytes, resize: bool) -> None:
        image = PIL.Image.open(io.BytesIO(encoded))
        image.load()
        if resize:
            image.resize((size, size), PIL.Image.Resampling.BICUBIC)

    def by_torch(encoded: bytes, resize: bool) -> None:
        pixels = decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8))
        if resize:
            F.interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)

    def run(work: Callable[[bytes, bool], None], resize: bool) -> Iterator[int]:
        for encoded in itertools.cycle(data):
            work(encoded, resize)
            yield 1

    works = {"pillow": by_pillow, "torch": by_torch}
    return {f"{name}{'_resize' * resize}": run(work, resize) for name, work in works.items() for resize in (False, True)}


def in_turns(streams: dict[str, Iterator[int]], pairs: int, rounds: int) -> list[dict[str, float]]:
    """Pairs a second of processor time of each stream, round by round."""
    for stream in streams.values():
        take(stream, pairs)  # files, caches, allocations
    return [{name: take(stream, pairs, time.process_time) for name, stream in streams.items()} for _ in range(rounds)]


def take(stream: Iterator[int], pairs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Pairs a second while taking at least so many."""
    start = clock()
    for done in itertools.accumulate(stream):
        if done >= pairs:
            return done / (clock() - start)
    raise AssertionError("streams are endless")


def with_workers(engine: Engine, folder: Path, processor: Processor, workers: int, pairs: int) -> dict[str, float]:
    """Rate in wall time, processor time of receiving, highest memory of a worker: of a process without other children."""
    stream = engine(folder, processor, workers)
    take(stream, pairs // 4)  # workers start
    start = time.process_time()
    rate = take(stream, pairs)
    parent = time.process_time() - start
    del stream
    gc.collect()  # the workers end
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"pairs_per_second": rate, "parent_ms_per_pair": 1e3 * parent / pairs, "worker_peak_mb": peak * RSS_UNIT / 1e6}


def apart(*arguments) -> dict[str, float]:
    """`with_workers` in a process of its own."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(with_workers, *arguments).result()


def summary(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Over runs the best rate, the least cost, the highest memory."""
    chosen = {"pairs_per_second": max, "parent_ms_per_pair": min, "worker_peak_mb": max}
    return {key: {who: float(f"{of(run[who][key] for run in runs):.3g}") for who in runs[0]} for key, of in chosen.items()}


def ratios(rates: list[dict[str, float]]) -> dict[str, float]:
    """Median over rounds."""
    against = [("ours", "webdataset"), ("ours_torch", "webdataset"), ("ours_torch", "webdataset_torch")]
    return {f"{a}/{b}": round(statistics.median(r[a] / r[b] for r in rates), 2) for a, b in against}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=200, help="pairs in each turn (default 200)")
    parser.add_argument("--rounds", type=positive, default=9, help="turns of each (default 9)")
    parser.add_argument("--side", type=positive, default=256, help="pixels of a JPEG's side (default 256)")
    parser.add_argument("--size", type=positive, default=224, help="pixels of the encoder's side (default 224)")
    parser.add_argument("--workers", type=positive, default=2, help="data processes of the runs in wall time (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = (s.text for i in range(100) for s in StdlibSource().get(0, i).segments)
    tokenizer = train_tokenizer(texts, 4096)
    pillow, fast = (Processor(tokenizer, ImageTransform(options.size, backend=name)) for name in ("pillow", "torch"))
    ways = {
        "ours": (ours, pillow),
        "ours_torch": (ours, fast),
        "webdataset": (theirs, pillow),
        "webdataset_torch": (theirs, fast),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(folder, "pairs", max_samples=250) as writer:
            for sample in pairs(1000, options.side):
                writer.write(sample)
        runs = [
            {
                who: apart(engine, folder, processor, options.workers, 4 * options.pairs)
                for who, (engine, processor) in ways.items()
            }
            for _ in range(RUNS)
        ]
        streams = {who: engine(folder, processor, 0) for who, (engine, processor) in ways.items()}
        rounds = in_turns(streams | limits(folder, options.size), options.pairs, options.rounds)
    best = {name: max(r[name] for r in rounds) for name in rounds[0]}
    figures = {
        "bench": "data",
        "pairs_per_processor_second": {name: round(rate) for name, rate in best.items() if name in ways},
        "limits_per_processor_second": {name: round(rate) for name, rate in best.items() if name not in ways},
        "ratio": ratios(rounds),
        "with_workers": summary(runs),
        "ratio_with_workers": ratios([{who: figures["pairs_per_second"] for who, figures in run.items()} for run in runs]),
        "options": vars(options),
        "hardware": hardware("cpu"),
        "versions": versions() | {"pillow": PIL.__version__},
        "commit": commit(),
        "peer": f"webdataset {webdataset.__version__}",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    command.run(main)
