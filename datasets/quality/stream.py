"""Shards read one sample at a time, in the order they are written, with progress to be seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from datasets.convert.common import Skips
from datasets.shard_index import index_shard
from datasets.shards import ShardSource
from datasets.source import BadSample
from vlm.prompt import ANSWER, REASON
from vlm.sample import Sample, Text

LINES, FEW = 10, 1000  # of progress where there is no terminal; samples that pass without one


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample and where it stands: the `number`-th of `shard`, counted from 0."""

    shard: str
    number: int
    sample: Sample

    @property
    def place(self) -> str:
        return f"{self.shard}#{self.number}"


def read(paths: Sequence[Path], skips: Skips, what: str = "samples") -> Iterator[Placed]:
    """All samples of some shards; those that cannot be read are counted in `skips`."""
    total = sum(len(index_shard(path)) for path in paths)
    bar = tqdm(total=total, unit=f" {what}", disable=not sys.stderr.isatty())
    done = 0
    for path in paths:
        if not len(index_shard(path)):
            skips.add("shard without samples", path.name)
            continue
        source = ShardSource(path, shuffle=False, allow_special=True)  # they come to no model here
        if source.cut:
            skips.add("shard cut off", path.name)
        for number in range(len(source)):
            try:
                yield Placed(path.name, number, source.get(0, number))
            except BadSample as bad:
                skips.add(bad.reason, f"{path.name}#{number}: {bad.detail}")
            done += 1
            bar.update()
            if bar.disable and done % max(FEW, total // LINES) == 0:
                print(f"{done:,} of {total:,} {what}", file=sys.stderr)
    bar.close()


def texts(sample: Sample) -> Iterator[Text]:
    """The texts of a sample without what every question has in common (vlm/prompt.py), the rest as it is."""
    for segment in sample.segments:
        if isinstance(segment, Text):
            text = segment.text.removesuffix(ANSWER).removesuffix(REASON).strip()
            yield Text(text.removeprefix("Question:").strip(), segment.learn)
