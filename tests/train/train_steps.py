"""A loader of small steps with pictures, and sources that stop it."""

from __future__ import annotations

from typing import Any

import PIL.Image

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.tokenizer import train_tokenizer
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text

PROCESSOR = Processor(train_tokenizer([], 260), ImageTransform(4))


class Pictures:
    """Sample `index` has one to three grey pictures and some words; from `gone_at` on there are none."""

    name, size = "pictures", 400

    def __init__(self, gone_at: int | None = None) -> None:
        self.gone_at = gone_at

    def __len__(self) -> int:
        return self.size

    def get(self, epoch: int, index: int) -> Sample:
        if self.gone_at is not None and index >= self.gone_at:
            raise ValueError(f"{self.name}: the disk is gone")
        grey = (index * 3 % 250,) * 3
        pictures = [Image(PIL.Image.new("RGB", (4, 4), grey))] * (1 + index % 3)
        return Sample((*pictures, Text(f"{index} " * (1 + index % 7))), key=str(index), source=self.name)


def loader(workers: int, *, source: Pictures | None = None, **options: Any) -> MixtureLoader:
    mixture = Mixture([source or Pictures()], [1.0])
    return MixtureLoader(mixture, PROCESSOR, workers=workers, **{"rows": 4, "length": 64, **options})
