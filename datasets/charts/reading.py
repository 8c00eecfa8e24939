"""The first steps towards charts with printed names: pictures of one word, then of several lines of words and numbers.

A model from scratch learns nothing from small printed charts until it can read; a recipe shows these first (`words: [1, 1]`,
then `[2, 4]`, then charts of profile `read`). As with charts, a hash of the content decides between training and held-out.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import PIL.Image

from datasets.charts.rng import Draw
from datasets.charts.spec import Split
from datasets.charts.text import Printed, put_text, text_width
from datasets.charts.vocabulary import MEASURES, ORDERED, SORTS
from vlm.prompt import question
from vlm.sample import Drawing, Image, Sample

ASKED = "What does it say?"
HELD_OUT_SHARE = 0.125
_NAMES = tuple(dict.fromkeys(name for names in (*SORTS.values(), *ORDERED.values(), tuple(MEASURES)) for name in names))


@dataclass(frozen=True, slots=True)
class WordDrawing(Drawing):
    """Printed lines on a square of paper, drawn when it is decoded."""

    lines: tuple[Printed, ...]
    side: int  # pixels
    paper: int  # grey level

    def render(self) -> PIL.Image.Image:
        image = PIL.Image.new("RGB", (self.side, self.side), (self.paper,) * 3)
        for line in self.lines:
            put_text(image, line)
        return image


class WordSource:
    """Pictures of `words` [least, most] printed words or numbers, one a line; the answer is the text. New ones every epoch."""

    def __init__(
        self,
        seed: int = 0,
        split: Split = "train",
        size: int = 100_000,
        words: tuple[int, int] = (1, 1),
        side: int = 64,
        name: str = "words",
    ) -> None:
        if size < 1 or not 1 <= words[0] <= words[1] <= 8:
            raise ValueError(f"want a positive size and 1 to 8 words, got {size} and {list(words)}")
        self.seed, self.split, self.size, self.words, self.side, self.name = seed, split, size, tuple(words), side, name

    def __len__(self) -> int:
        return self.size

    def get(self, epoch: int, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside an epoch of {self.size} samples")
        number = epoch * self.size + index
        draw = Draw("words", self.seed, number, self.split)
        words = _words(draw.integer(*self.words), self.split, draw)
        picture = Image(_drawing(words, self.side, draw))
        key = f"words-{self.split}-{self.seed}-{number}"
        sample = question((picture,), ASKED, answer=" ".join(words), key=key)
        return Sample(sample.segments, key=key, source=self.name)


def _words(count: int, split: Split, draw: Draw) -> list[str]:
    while True:
        words = [_number(draw) if draw.chance(0.3) else draw.pick(_NAMES) for _ in range(count)]
        digest = int.from_bytes(blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")
        if (digest < HELD_OUT_SHARE * 2**64) == (split == "held_out"):
            return words


def _number(draw: Draw) -> str:
    scale = draw.pick(MEASURES[draw.pick(list(MEASURES))])
    return scale.number.text(draw.integer(1, 6 * draw.pick(scale.steps)))


def _drawing(words: list[str], side: int, draw: Draw) -> WordDrawing:
    """Lines one under another at a random place, in the largest of three random sizes that fits."""
    room = side - 4
    sizes = sorted((draw.integer(9, max(10, side // 4)) for _ in range(3)), reverse=True)
    size = next((s for s in sizes if max(text_width(w, s) for w in words) <= room and len(words) * (s + 2) <= room), 8)
    paper, ink = draw.integer(225, 255), draw.integer(0, 90)
    left = 2 + draw.uniform(0, max(0.0, room - max(text_width(w, size) for w in words)))
    top = 2 + draw.uniform(0, max(0, room - len(words) * (size + 2)))
    x, y = round(left), round(top)
    lines = (Printed(word, x, y + line * (size + 2), size, (ink,) * 3, "la") for line, word in enumerate(words))
    return WordDrawing(tuple(lines), side, paper)
