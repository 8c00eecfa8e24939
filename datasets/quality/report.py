"""What a filter run did: counts by reason and set of shards, the judges of unwanted text, the first cases, what it cost.

`report.json` is for programs, `report.html` to look at (one file, no scripts; text from samples is escaped, pictures are
re-encoded small), `dropped.jsonl` has a row for each dropped sample. Nothing in them depends on the time or the machine.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import IO

import jinja2
import numpy as np
import PIL.Image

from datasets.convert.common import Skips
from datasets.quality.filter import Verdict
from datasets.quality.pictures import frames
from datasets.quality.stream import Placed
from vlm.image import open_image
from vlm.sample import Text

EXAMPLES = 3  # shown for each reason
EXCERPT = 300  # characters
THUMBNAIL = 160  # pixels of the longer side
TEMPLATE = Path(__file__).with_name("report.html.j2")
BINS = 10  # of the judges' histograms


class Report:
    """Told of each verdict; `dropped` receives a line for each sample that is not kept."""

    def __init__(self, dropped: IO[str]) -> None:
        self._dropped = dropped
        self.kept: Counter[str] = Counter()  # by set of shards
        self.reasons: dict[str, Counter[str]] = {}  # by set of shards
        self.examples: dict[str, list[dict]] = {}
        self._pictures: dict[str, list[list[str]]] = {}
        self._probabilities = np.zeros(BINS, np.int64)
        self._listed = self._words = 0

    def add(self, placed: Placed, verdict: Verdict) -> None:
        """Count one sample; a dropped one becomes a row."""
        source = placed.sample.source
        self._words += verdict.words
        self._listed += verdict.signals.listed_share > 0
        if verdict.signals.probability is not None:
            self._probabilities[min(int(verdict.signals.probability * BINS), BINS - 1)] += 1
        if not verdict.reason:
            self.kept[source] += 1
            return
        self.reasons.setdefault(source, Counter())[verdict.reason] += 1
        row = {"place": placed.place, "sample": placed.sample.key} | asdict(verdict)
        self._dropped.write(json.dumps(row, ensure_ascii=False) + "\n")
        shown = self.examples.setdefault(verdict.reason, [])
        if len(shown) < EXAMPLES:
            text = " ".join(s.text for s in placed.sample.segments if isinstance(s, Text))
            shown.append(row | {"text": text[:EXCERPT]})
            self._pictures.setdefault(verdict.reason, []).append(_thumbnails(frames(placed.sample)[:3]))

    @property
    def dropped(self) -> Counter[str]:
        """By reason."""
        return sum(self.reasons.values(), Counter())

    def summary(self, settings: dict, skips: Skips, index: dict) -> dict:
        """The report as it is written to `report.json`."""
        dropped, kept = self.dropped, sum(self.kept.values())
        total = kept + sum(dropped.values())
        sources = sorted(self.kept.keys() | self.reasons.keys())
        return {
            "samples": total,
            "kept": kept,
            "dropped": {r: {"count": n, "share": round(n / total, 6)} for r, n in dropped.most_common()} if total else {},
            "words": self._words,
            "by_source": {s: {"kept": self.kept[s], "dropped": dict(self.reasons.get(s, Counter()))} for s in sources},
            "unwanted": {
                "samples_with_listed_words": self._listed,
                "classifier_histogram": self._probabilities.tolist() if self._probabilities.any() else None,
            },
            "unreadable": skips.summary(),
            "index": index,
            "settings": settings,
            "examples": self.examples,
        }

    def html(self, summary: dict) -> str:
        """One page."""
        environment = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        return environment.from_string(TEMPLATE.read_text()).render(report=summary, pictures=self._pictures)


def _thumbnails(files: list[bytes]) -> list[str]:
    """As `data:` addresses; what cannot be opened is left out."""
    found = []
    for file in files:
        try:
            image = open_image(file)
        except ValueError:
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return found
