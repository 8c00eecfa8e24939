"""Texts and pictures with known edits, and shards of them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from datasets.convert.__main__ import write
from datasets.quality.__main__ import main
from datasets.shards import ShardSource
from vlm.sample import Image, Sample, Text

_rng = random.Random(7)
WORDS = ["".join(_rng.choices("abcdefghijklmnoprstuvwy", k=_rng.randint(2, 9))) for _ in range(3000)]


def prose(seed: int, count: int = 300) -> str:
    """`count` words with a skewed distribution, as in prose, in lines of twelve."""
    words = random.Random(seed).choices(WORDS, weights=[1 / (i + 5) for i in range(len(WORDS))], k=count)
    return "\n".join(" ".join(words[i : i + 12]) for i in range(0, count, 12))


def changed(text: str, share: float, seed: int = 0) -> str:
    """Another word in the place of each, with probability `share`."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())


def chart(seed: int, bars: int = 8, size: tuple[int, int] = (320, 220)) -> PIL.Image.Image:
    """Bars on white with a frame: different charts of one template."""
    rng = np.random.default_rng(seed)
    image = PIL.Image.new("RGB", size, "white")
    draw = PIL.ImageDraw.Draw(image)
    draw.line([(20, 10), (20, 200), (310, 200)], fill="black", width=2)
    for bar in range(bars):
        left, height = 30 + bar * 280 // bars, int(rng.integers(20, 180))
        draw.rectangle([left, 200 - height, left + 200 // bars, 200], fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sample(*parts: str | bytes, key: str = "s", source: str = "set", learn: bool = True) -> Sample:
    """Text of strings, pictures of bytes."""
    return Sample(tuple(Image(p) if isinstance(p, bytes) else Text(p, learn) for p in parts), key, source)


def shards(samples: Iterable[Sample], folder: Path) -> Path:
    write(samples, folder)
    return folder


def contents(folder: Path) -> list[Sample]:
    source = ShardSource(folder, shuffle=False)
    return [source.get(0, i) for i in range(len(source))]


def clean(src: Path, dst: Path, *options: str) -> tuple[dict, list[dict]]:
    """(report, dropped rows) of the command."""
    main([str(src), str(dst), *options])
    rows = [json.loads(line) for line in (dst / "dropped.jsonl").read_text().splitlines()]
    return json.loads((dst / "report.json").read_text()), rows


def labelled(path: Path, count: int = 120, seed: int = 0) -> list[dict]:
    """Unwanted texts speak of ten words more than others do."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        text = prose(i + 1000 * seed, 80).split()
        if i % 3 == 0:
            text = [rng.choice(WORDS[-10:]) if rng.random() < 0.2 else w for w in text]
        rows.append({"text": " ".join(text), "label": int(i % 3 == 0)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
