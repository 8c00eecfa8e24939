"""Public data sets in their official layouts → shards. One module a layout; `CONVERTERS` is the registry.

A converter is a generator of Samples; what it cannot use it counts in `Skips`. A sample's `source` names the set of shards it
goes to (`train`, `val`, …).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datasets.convert import chartqa, interleaved, text
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
    "interleaved": Converter(interleaved.convert, interleaved.arguments, "pages as parallel texts/images lists, as OBELICS"),
    "text": Converter(text.convert, text.arguments, "jsonl(.gz), txt, source trees"),
}

__all__ = ["CONVERTERS", "Converter", "Skips"]
