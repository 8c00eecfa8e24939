"""What a prompt is, as a hash: of its words, of its pictures' bytes, and of a whole request for the cache."""

from __future__ import annotations

import dataclasses
import json

from eval.models import Request
from eval.tasks import Item, digest
from vlm.sample import Image, Picture, Sample, Text, Video, drawn


def prompt_hash(sample: Sample) -> str:
    """Covers the text and where the pictures stand in it."""
    return digest(str(sample.framed), *(_mark(segment) for segment in sample.segments))


def _mark(segment: Text | Image | Video) -> str:
    if isinstance(segment, Text):
        return f"{'special' if segment.special else 'learnt' if segment.learn else 'given'}:{segment.text}"
    return "image" if isinstance(segment, Image) else f"video:{segment.times}:{len(segment.frames)}"


def image_hash(sample: Sample) -> str | None:
    """Covers the pictures, in their order; `None` where there is none."""
    found = [segment.data for segment in sample.segments if isinstance(segment, Image)]
    found += [frame for segment in sample.segments if isinstance(segment, Video) for frame in segment.frames]
    return digest(*map(_content, found)) if found else None


def _content(picture: Picture) -> bytes:
    data = drawn(picture)
    return data if isinstance(data, bytes) else f"{data.mode} {data.size} ".encode() + data.tobytes()


def request_hash(model: str, request: Request) -> str:
    """Covers all that what `model` (a fingerprint) writes depends on."""
    options = {f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name != "sample"}
    if not request.temperature:
        del options["seed"], options["top_p"]  # nothing is drawn
    sample = request.sample
    return digest(model, prompt_hash(sample), image_hash(sample) or "", json.dumps(options, sort_keys=True))


def item_hash(item: Item) -> str:
    """Covers all that is asked, and the gold: a changed picture under the same id is asked again. A picture that cannot be
    read counts as none."""
    choices = json.dumps(dict(item.choices) if item.choices else None)
    options = json.dumps(dict(item.options), sort_keys=True, default=str)
    texts = [item.question, item.context, item.hint, item.instruction, choices, options, json.dumps(item.references)]
    try:
        return digest(*texts, *item.pictures())
    except OSError:
        return digest(*texts, "unreadable")
