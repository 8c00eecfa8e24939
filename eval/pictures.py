"""Pictures of a prompt: where in the text they stand, and the blank control that shows what the text alone gives away."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache

import PIL.Image

from vlm.image import open_image
from vlm.sample import Image, Sample, Segment, Text

_PLACE = re.compile(r"<image (\d{1,3})>")  # MMMU's way of naming one in a question


def placed(pictures: Sequence[bytes], text: str) -> list[Segment]:
    """Pictures first, then `text`; a picture that the text names (`<image 2>`) stands there, the first time it is named."""
    segments: list[Segment] = []
    left, start = dict(enumerate(map(Image, pictures), 1)), 0
    for match in _PLACE.finditer(text):
        if image := left.pop(int(match[1]), None):
            segments += [Text(text[start : match.start()], learn=False)] if match.start() > start else []
            segments.append(image)
            start = match.end()
    return [*left.values(), *segments, Text(text[start:], learn=False)]


def blanked(sample: Sample) -> Sample:
    """Every picture replaced by a white one of the same size. Raises `ValueError` for what is no whole picture."""
    segments = tuple(Image(white(*open_image(s.data).size)) if isinstance(s, Image) else s for s in sample.segments)
    return Sample(segments, sample.key, sample.source, sample.meta, sample.framed)


@lru_cache(maxsize=64)
def white(width: int, height: int) -> bytes:
    """PNG"""
    buffer = io.BytesIO()
    PIL.Image.new("L", (width, height), 255).save(buffer, "PNG")
    return buffer.getvalue()
