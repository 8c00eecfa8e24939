"""Tiny sources whose every token tells where it came from, and a processor that keeps it."""

from __future__ import annotations

import io

import PIL.Image

from datasets.source import BadSample
from datasets.tokenizer import train_tokenizer
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text


def processor(size: int = 4) -> Processor:
    """One token a byte: what goes in can be read back from the ids."""
    return Processor(train_tokenizer([], 260), ImageTransform(size))


def png(level: int, size: int = 4) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (size, size), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


class Words:
    """Document `index` of `epoch` is "{name}{epoch}.{index} " repeated; lengths vary from short to several rows."""

    def __init__(self, name: str, size: int, *, longest: int = 20, images: int = 0, given: bool = False) -> None:
        self.name, self.size, self.longest, self.images, self.given = name, size, longest, images, given

    def __len__(self) -> int:
        return self.size

    def get(self, epoch: int, index: int) -> Sample:
        mark = f"{self.name}{epoch}.{index} "
        words = mark * (1 + (index * 7 + epoch) % self.longest)
        question = (Text("?", learn=False),) if self.given else ()
        pictures = tuple(Image(png((index * 3 + i) % 250)) for i in range(self.images))
        return Sample((*pictures, *question, Text(words)), key=mark.strip(), source=self.name)


class Rotten(Words):
    """Every third sample is bad, every third picture broken."""

    def get(self, epoch: int, index: int) -> Sample:
        if index % 3 == 1:
            raise BadSample("rotten", f"{self.name}{index}")
        if index % 3 == 2:
            return Sample((Image(b"no picture"), Text("x")), key=f"{self.name}{index}")
        return super().get(epoch, index)
