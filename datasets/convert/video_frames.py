"""Clips as folders of frames, with a .json list or .jsonl(.gz) of rows beside them. SRC is such a file or a folder of them;
each file becomes a set of shards.

| field | meaning |
|---|---|
| `frames` | a folder of pictures, in the order of the numbers in their names, or a list of files |
| `times` | seconds of each frame from the clip's start; without it frame i is at i / `fps` (the row's, else `--fps`) |
| `caption`, or `captions` | a text, or a list of texts or of `{text, start, end}` in seconds |
| `question` and `answer`, or `qa` | a question, or a list of `{question, answer, rationale, start, end}` |
| `id` | name in records |

Names are looked for below `--images` (default: SRC, or SRC's folder). What has a `start` and `end` of its own sees
the frames between (times count from the first of these); all questions about the whole clip share one sample. Of more than
`--max-frames` frames that many are kept, evenly spread. A broken frame is left out with its time, and counted.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.convert.common import PICTURE_ENDINGS, Skips, filled, listed, root_of, row_files, source_of
from datasets.convert.pictures import read_images, why_not
from datasets.convert.rows import read_rows
from vlm.prompt import turn
from vlm.sample import Sample, Segment, Text, Video

ENDINGS = (".json", ".jsonl", ".jsonl.gz")
FRAMES = 32  # kept of one clip
LONGEST = 1e9  # seconds of a clip: what is past that is no time


@dataclass(frozen=True, slots=True)
class Told:
    """What is said about the frames from `start` to `end` seconds."""

    segments: tuple[Segment, ...]
    start: float = -math.inf
    end: float = math.inf


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the frames' folders (default: SRC)")
    parser.add_argument(
        "--fps", type=float, default=1.0, help="frames a second where a row tells neither times nor fps (default: 1)"
    )
    parser.add_argument("--max-frames", type=int, default=FRAMES, metavar="N", help=f"kept of one clip (default: {FRAMES})")


def convert(
    src: Path, skips: Skips, *, images: str | None = None, fps: float = 1.0, max_frames: int = FRAMES
) -> Iterator[Sample]:
    """Samples of all rows. Raises `ValueError` when no row names frames, or an option makes no sense."""
    if not 0 < fps < math.inf or max_frames < 1:
        raise ValueError(f"--fps {fps} and --max-frames {max_frames} must be above 0")
    root, seen = root_of(src, images), False
    for path in row_files(src, ENDINGS, skips):
        for where, row in read_rows(path, skips):
            seen = seen or "frames" in row
            try:
                yield from _row(row, where, root, fps, max_frames, source_of(path), skips)
            except ValueError as error:
                skips.add(str(error), where)
    if not seen:
        raise ValueError(f"{src} is not in the layout of video_frames: no {', '.join(ENDINGS)} whose rows have frames")


def _row(row: dict, where: str, root: Path, fps: float, most: int, source: str, skips: Skips) -> Iterator[Sample]:
    told = list(_captions(row, where, skips)) + list(_questions(row, where, skips))
    if not told:
        raise ValueError("no caption and no question with an answer")
    names = _names(root, row.get("frames"), skips)
    times = _times(row, len(names), fps)
    name = row.get("id")
    key = str(name) if isinstance(name, str | int) else where
    for number, part in enumerate(told):
        shown = [(n, t) for n, t in zip(names, times, strict=True) if part.start <= t <= part.end]
        clip = _clip(root, shown, most, skips)
        if clip:
            yield Sample((clip, *part.segments), f"{key}#{number}" if len(told) > 1 else key, source)
        else:
            skips.add("no frame of the clip", f"{where}#{number}")


def _clip(root: Path, shown: Sequence[tuple[object, float]], most: int, skips: Skips) -> Video | None:
    """`most` of the frames, evenly spread from the first to the last; times from the first."""
    if len(shown) > most:
        shown = [shown[i * (len(shown) - 1) // max(most - 1, 1)] for i in range(most)]
    data = read_images(root, [name for name, _ in shown], skips)
    kept = [(d, t) for d, (_, t) in zip(data, shown, strict=True) if d is not None]
    return Video(tuple(d for d, _ in kept), tuple(t - shown[0][1] for _, t in kept)) if kept else None


def _names(root: Path, frames: object, skips: Skips) -> list[object]:
    """File names of the frames, of a folder in the order of the numbers in their names."""
    if isinstance(frames, list):
        return frames
    if not isinstance(frames, str):
        raise ValueError("no frames")
    found = [path.name for path in listed(root, PICTURE_ENDINGS, skips, frames)]
    if not found:
        raise ValueError(f"folder of frames {why_not(root, frames)}")
    return [f"{frames}/{name}" for name in sorted(found, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", name)]


def _times(row: dict, count: int, fps: float) -> list[float]:
    given = row.get("times")
    if given is None:
        rate = _number(row.get("fps", fps))
        if not rate or rate < 0:
            raise ValueError("fps is no number above 0")
        if count / rate > LONGEST:
            raise ValueError("fps makes a clip of decades")
        return [i / rate for i in range(count)]
    times = [t for t in map(_number, given) if t is not None] if isinstance(given, list) else []
    if len(times) != count or times != sorted(times):
        raise ValueError("times are not one ascending number a frame")
    return times


def _number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LONGEST:
        return None
    return float(value)


def _captions(row: dict, where: str, skips: Skips) -> Iterator[Told]:
    given = row.get("captions")
    for entry in [row.get("caption"), *(given if isinstance(given, list) else [])]:
        entry = entry if isinstance(entry, dict) else {"text": entry}
        text = filled(entry.get("text"))
        if text and (span := _span(entry, where, skips)) is not None:
            yield Told((Text(text),), *span)


def _questions(row: dict, where: str, skips: Skips) -> Iterator[Told]:
    """Those about the whole clip together, one after the other; each with a span apart."""
    given = row.get("qa")
    together: tuple[Segment, ...] = ()
    for entry in [row, *(given if isinstance(given, list) else [])]:
        asked, answer = (
            (filled(entry.get("question")), filled(entry.get("answer"))) if isinstance(entry, dict) else (None, None)
        )
        if not asked or not answer:
            continue
        segments = turn(asked, answer=answer, rationale=filled(entry.get("rationale")))
        span = _span(entry, where, skips) if entry is not row else ()
        if span is None:
            continue
        if span:
            yield Told(segments, *span)
        else:
            together += segments
    if together:
        yield Told(together)


def _span(entry: dict, where: str, skips: Skips) -> tuple[float, float] | tuple[()] | None:
    """(start, end) in seconds, where given; `None`, counted, for what is no span."""
    if "start" not in entry and "end" not in entry:
        return ()
    start, end = _number(entry.get("start", 0.0)), _number(entry.get("end", 1e8))
    if start is None or end is None or start > end:
        skips.add("start and end are no span of seconds", where)
        return None
    return start, end
