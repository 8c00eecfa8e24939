"""Throughput of the data engine on image-text pairs: JPEG decode, resize, tokenize, pack, against webdataset's plain pipeline.

Run from the repository root: `python tests/bench/bench_data.py [--pairs 2000] [--side 256] [--size 224] [--workers 2]`.
Both read the same shards, decode with Pillow, resize to the same square, tokenize with the same tokenizer and hand out batches
of tensors; webdataset's rows are one pair each, padded, ours are packed. `decode` and `decode_resize` are Pillow alone: the
part of the work that no engine with these pixels can leave out. The two take turns, and the best of each counts: in wall time
with worker processes, and in processor time without, which other work on the machine moves less. Pairs are generated: noise
over gradients. Prints one line of JSON: pairs a second for each, and the ratios.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import PIL.Image
import torch
import webdataset
from torch.utils.data import DataLoader

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.shards import ShardSource, ShardWriter
from datasets.text import StdlibSource
from datasets.tokenizer import train_tokenizer
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text

LENGTH, ROWS = 512, 8
Clock = Callable[[], float]  # seconds


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


def ours(folder: Path, processor: Processor, workers: int, count: int, clock: Clock) -> float:
    """Pairs a second of `clock`."""
    mixture = Mixture([ShardSource(folder)], [1.0])
    stream = iter(MixtureLoader(mixture, processor, rows=ROWS, length=LENGTH, workers=workers))
    return _rate((step.counts.documents for step in stream), count, clock)


def theirs(folder: Path, processor: Processor, workers: int, count: int, clock: Clock) -> float:
    """webdataset as its documentation has it: decode, map, batch, in a DataLoader."""
    size = processor.image.size

    def prepare(sample: tuple) -> tuple:
        image, record = sample
        small = image.resize((size, size), PIL.Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
        tokens = torch.full((128,), processor.pad_id)
        ids = processor.tokenize(record["segments"][1]["text"])[:128]
        tokens[: len(ids)] = torch.tensor(ids)
        return pixels, tokens

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).repeat().shuffle(100)
    dataset = dataset.decode("pil").to_tuple("0.jpg", "json").map(prepare).batched(32)
    stream = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
    return _rate((len(images) for images, _ in stream), count, clock)


def decoding(folder: Path, size: int, count: int) -> dict[str, float]:
    """Pictures a second of one core, by Pillow alone."""
    source = ShardSource(folder, shuffle=False)
    data = [source.get(0, i).segments[0].data for i in range(min(count, len(source)))]
    rates = {}
    for name, resize in (("decode", False), ("decode_resize", True)):
        start = time.process_time()
        for image in map(_decode, data):
            if resize:
                image.resize((size, size), PIL.Image.Resampling.BICUBIC)
        rates[name] = len(data) / (time.process_time() - start)
    return rates


def _decode(data: bytes) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image


def _rate(batches: Iterator[int], count: int, clock: Clock) -> float:
    for _ in range(3):  # workers start
        next(batches)
    start = clock()
    for done in itertools.accumulate(batches):
        if done >= count:
            return done / (clock() - start)
    raise AssertionError("streams are endless")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs timed in each run (default 2000)")
    parser.add_argument("--side", type=int, default=256, help="pixels of a JPEG's side (default 256)")
    parser.add_argument("--size", type=int, default=224, help="pixels of the encoder's side (default 224)")
    parser.add_argument("--workers", type=int, default=2, help="data processes (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="the two take turns; the best of each counts (default 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = (s.text for i in range(100) for s in StdlibSource().get(0, i).segments)
    processor = Processor(train_tokenizer(texts, 4096), ImageTransform(options.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(folder, "pairs", max_samples=250) as writer:
            for sample in pairs(1000, options.side):
                writer.write(sample)
        work = {"pairs_per_second": (options.workers, time.perf_counter), "pairs_per_processor_second": (0, time.process_time)}
        best: dict[str, dict[str, float]] = {name: {"ours": 0.0, "webdataset": 0.0} for name in work}
        for _, (name, (workers, clock)) in itertools.product(range(options.repeats), work.items()):
            for who, run in (("ours", ours), ("webdataset", theirs)):
                best[name][who] = max(best[name][who], run(folder, processor, workers, options.pairs, clock))
        limit = decoding(folder, options.size, 500)
    figures = {
        "bench": "data",
        **{name: {who: round(rate) for who, rate in rates.items()} for name, rates in best.items()},
        "ratio": {name: round(rates["ours"] / rates["webdataset"], 2) for name, rates in best.items()},
        "pillow_per_processor_second": {name: round(value) for name, value in limit.items()},
        "share_of_pillow_limit": round(best["pairs_per_processor_second"]["ours"] / limit["decode_resize"], 2),
        "options": vars(options),
        "hardware": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pillow": PIL.__version__},
        "peer": f"webdataset {webdataset.__version__}",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
