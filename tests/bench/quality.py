"""`python -m tests.bench.quality`: what datasets.quality finds, and how fast, on one core; one JSON line.

Texts are PEPs and RFCs, pictures ChartQA's and OpenStax', with edits made here. Without $VLM_DATA (../shared/data) it stops.
Recall: edited copies found as their original; false: originals taken for another of the set whose bytes (words) differ.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image

from datasets.quality.near import BANDS, PERMUTATIONS, BandIndex
from datasets.quality.pictures import PictureIndex, perceptual_hash
from datasets.quality.reading import Reading, read
from datasets.quality.wordlist import WordList
from tests.bench.measure import commit, hardware, versions
from vlm import command
from vlm.image import open_image

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))
TEXTS, PICTURES = 300, 300


def texts() -> list[str]:
    """Documents of 500 words and more, cut at 5,000 characters."""
    found = []
    for name in ("peps", "rfcs"):
        with gzip.open(DATA / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as rows:
            found += [json.loads(row)["text"] for row in rows]
    random.Random(0).shuffle(found)
    return [text[2000:7000] for text in found if len(text) > 8000][:TEXTS]


def changed(text: str, share: float, vocabulary: list[str], rng: random.Random) -> str:
    """Each word replaced by another with probability `share`."""
    return re.sub(r"\w+", lambda word: rng.choice(vocabulary) if rng.random() < share else word[0], text)


def jpeg(image: PIL.Image.Image, quality: int) -> PIL.Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return PIL.Image.open(buffer)


def resized(image: PIL.Image.Image, scale: float) -> PIL.Image.Image:
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def cropped(image: PIL.Image.Image, share: float) -> PIL.Image.Image:
    """`share` of each side cut off, half at each end."""
    x, y = image.width * share / 2, image.height * share / 2
    return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))


PICTURE_EDITS: dict[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {
    "jpeg 75": lambda image: jpeg(image, 75),
    "jpeg 30": lambda image: jpeg(image, 30),
    "resize 0.5": lambda image: resized(image, 0.5),
    "resize 2": lambda image: resized(image, 2),
    "resize 0.7, jpeg 60": lambda image: jpeg(resized(image, 0.7), 60),
    "crop 1 %": lambda image: cropped(image, 0.01),
    "crop 2 %": lambda image: cropped(image, 0.02),
    "crop 5 %": lambda image: cropped(image, 0.05),
}


def bench_texts() -> dict:
    """Speed, and for each similarity the originals taken for another and the recall by share of words changed."""
    documents, listed, rng = texts(), WordList(), random.Random(1)
    vocabulary = sorted({word for text in documents for word in re.findall(r"\w+", text)})
    start = time.process_time()
    readings = [read(text, listed, None) for text in documents]
    index = BandIndex(PERMUTATIONS, BANDS, np.uint32)
    best = []
    for reading in readings:
        best.append(_best(index, reading)[0])
        index.add(reading.signature)
    seconds = time.process_time() - start
    words = sum(reading.counts.words for reading in readings)
    figures: dict = {"documents_per_second": round(len(documents) / seconds), "words_per_second": round(words / seconds)}
    edited = {
        share: [_best(index, read(changed(text, share, vocabulary, rng), listed, None)) for text in documents]
        for share in (0.02, 0.05, 0.1, 0.15)
    }
    for limit in (0.5, 0.6, 0.7):
        hits = {s: sum(alike >= limit and n == i for i, (alike, n) in enumerate(found)) for s, found in edited.items()}
        recall = {f"{share:.0%} changed": round(count / len(documents), 3) for share, count in hits.items()}
        figures[f"similarity {limit}"] = {"false": sum(b >= limit for b in best), "of": len(best), "recall": recall}
    return figures


def _best(index: BandIndex, reading: Reading) -> tuple[float, int]:
    """(similarity, number) of the nearest."""
    numbers, others = index.candidates(reading.signature)
    alike = (others == reading.signature).mean(axis=1)
    return (float(alike.max()), int(numbers[alike.argmax()])) if len(numbers) else (0.0, -1)


def bench_index(count: int = 50_000) -> dict:
    """Memory and speed of a large index, of signatures with nothing in common."""
    signatures = np.random.default_rng(0).integers(0, 1 << 32, (count, PERMUTATIONS), np.uint32)
    index = BandIndex(PERMUTATIONS, BANDS, np.uint32)
    start = time.process_time()
    for signature in signatures:
        index.candidates(signature)
        index.add(signature)
    seconds = time.process_time() - start
    return {"texts": count, "texts_per_second": round(count / seconds), "bytes_each": round(index.nbytes / count)}


def bench_pictures(pattern: str) -> dict:
    files = [path.read_bytes() for path in sorted(DATA.glob(pattern))]
    random.Random(0).shuffle(files)
    files = list(dict.fromkeys(files))[:PICTURES]
    index, false = PictureIndex(15), 0
    start = time.process_time()
    for file in files:
        hashed = perceptual_hash(file)
        false += bool(index.find(hashed))
        index.add(hashed)
    speed = len(files) / (time.process_time() - start)
    images, recall = [open_image(file) for file in files], {}
    for edit, make in PICTURE_EDITS.items():
        found = [index.find(perceptual_hash(make(image))) for image in images]
        recall[edit] = round(sum(bool(f) and f[0][1] == i for i, f in enumerate(found)) / len(files), 3)
    return {"pictures_per_second": round(speed), "false": false, "of": len(files), "recall": recall}


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    if not DATA.is_dir():
        sys.exit(f"no data at {DATA}: set VLM_DATA")
    figures = {"bench": "quality", "texts": bench_texts(), "index": bench_index()}
    figures |= {"ChartQA": bench_pictures("chartqa/*/png/*"), "OpenStax": bench_pictures("openstax/images/*/*")}
    print(json.dumps(figures | {"hardware": hardware("cpu"), "versions": versions(), "commit": commit()}))


if __name__ == "__main__":
    command.run(main)
