"""Public data sets in their official layouts → shards. One module a layout; `CONVERTERS` is the registry.

A converter is a generator of Samples; what it cannot use it counts in `Skips`. A sample's `source` names the set of shards it
goes to (`train`, `val`, …).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datasets.convert import (
    chartqa,
    coco_caption,
    interleaved,
    llava,
    mmc4,
    opencqa,
    pairs,
    scienceqa,
    text,
    video_frames,
    vqav2,
)
from datasets.convert.common import Skips
from vlm.sample import Sample


@dataclass(frozen=True, slots=True)
class Converter:
    """`convert(src, skips, **options)` yields samples; `arguments` adds the options to a command line."""

    convert: Callable[..., Iterator[Sample]]
    arguments: Callable[[argparse.ArgumentParser], None]
    about: str


CONVERTERS = {
    "chartqa": Converter(chartqa.convert, chartqa.arguments, "ChartQA: {split}/png/ and {split}_*.json"),
    "coco_caption": Converter(coco_caption.convert, coco_caption.arguments, "COCO captions, official or Karpathy's split"),
    "interleaved": Converter(interleaved.convert, interleaved.arguments, "pages as parallel texts/images lists, as OBELICS"),
    "llava": Converter(llava.convert, llava.arguments, "conversations about pictures: from/value rows"),
    "mmc4": Converter(mmc4.convert, mmc4.arguments, "MMC4 pages: pictures assigned to sentences by similarity"),
    "opencqa": Converter(opencqa.convert, opencqa.arguments, "OpenCQA: chart_images/ and {split}.json"),
    "pairs": Converter(pairs.convert, pairs.arguments, "pictures with captions: folders, tables, img2dataset tars"),
    "scienceqa": Converter(scienceqa.convert, scienceqa.arguments, "ScienceQA: problems.json or {split}.json, and pictures"),
    "text": Converter(text.convert, text.arguments, "jsonl(.gz), txt, source trees"),
    "video_frames": Converter(video_frames.convert, video_frames.arguments, "folders of frames with captions and questions"),
    "vqav2": Converter(vqav2.convert, vqav2.arguments, "VQA v2: questions and annotations over COCO's pictures"),
}

__all__ = ["CONVERTERS", "Converter", "Skips"]
