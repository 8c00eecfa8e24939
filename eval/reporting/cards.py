"""Samples to look at: what was asked, what each arm wrote, and a small picture. Bounded in number, bytes and length of text.

Samples are spread evenly over the evaluation within each verdict of the first arm, so that rare ones are there to see.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from eval.reporting.text import clean
from eval.reporting.verdicts import score_of, verdict
from eval.tasks import Item
from vlm.image import open_image

EACH = 40  # samples of a verdict
PICTURES = 4  # of a sample
SIDE = 224  # pixels of a picture's longer side
BYTES = 6_000_000  # of all pictures

Arms = Mapping[str, Sequence[Mapping]]


def choose(records: Sequence[Mapping], each: int = EACH) -> list[Mapping]:
    """Up to `each` of a verdict, in the records' order."""
    by_verdict: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_verdict.setdefault(verdict(record), []).append(index)
    picked = [
        rows[i]
        for rows in by_verdict.values()
        for i in np.unique(np.linspace(0, len(rows) - 1, min(each, len(rows))).round().astype(int))
    ]
    return [records[index] for index in sorted(picked)]


def cards(arms: Arms, items: Iterable[Item], each: int = EACH) -> list[dict[str, Any]]:
    """What the template shows, a mapping a sample."""
    first, *others = arms.values()
    chosen = choose(first, each)
    wanted = {record["id"] for record in chosen}
    by_id = {item.id: item for item in items if item.id in wanted}
    rows = [{record["id"]: record for record in records if record["id"] in wanted} for records in others]
    made, left = [], BYTES
    for record in chosen:
        pictures = _thumbnails(by_id[record["id"]], left) if record["id"] in by_id else []
        left -= sum(map(len, pictures))
        said = [
            (name, found) for name, found in zip(arms, [record, *(row.get(record["id"]) for row in rows)], strict=True) if found
        ]
        made.append(_card(record, said, pictures))
    return made


def _card(record: Mapping, said: Sequence[tuple[str, Mapping]], pictures: list[str]) -> dict[str, Any]:
    answers = [_answer(name, found) for name, found in said]
    classes = [answers[0]["verdict"], *(["differ"] if len({answer["verdict"] for answer in answers}) > 1 else [])]
    choices = record.get("choices") or {}
    listed = choices.items() if isinstance(choices, Mapping) else []
    return {
        "id": clean(record["id"], 200),
        "classes": " ".join(classes),
        "question": clean(record.get("question", "")),
        "choices": [f"{clean(letter, 20)}. {clean(text, 300)}" for letter, text in list(listed)[:26]],
        "gold": [clean(reference, 300) for reference in dict.fromkeys(map(str, record.get("references") or ()))][:10],
        "answers": answers,
        "pictures": pictures,
    }


def _answer(name: str, record: Mapping) -> dict[str, Any]:
    score, prediction = score_of(record), record.get("prediction")
    return {
        "arm": name,
        "verdict": verdict(record),
        "score": None if score is None or score in (0.0, 1.0) else f"{score:.2f}",
        "prediction": None if prediction is None else clean(prediction, 300),
        "output": clean(record.get("output") or ""),
        "rationale": clean(record.get("rationale") or ""),
        "finish": record.get("finish", ""),
        "error": clean(record.get("error", ""), 500),
    }


def _thumbnails(item: Item, left: int) -> list[str]:
    """Data URIs, [] for what cannot be read; none beyond `left` characters."""
    found: list[str] = []
    for image in item.images[:PICTURES]:
        try:
            data = image if isinstance(image, bytes) else image.read_bytes()
            small = _thumbnail(data)
        except (ValueError, OSError):
            continue
        left -= len(small)
        if left < 0:
            break
        found.append(small)
    return found


def _thumbnail(data: bytes) -> str:
    """PNG where that is small (charts), else JPEG."""
    image = open_image(data)
    image.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    files = [
        (kind, _saved(image, kind, **options)) for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82}))
    ]
    kind, best = min(files, key=lambda file: len(file[1]))
    return f"data:image/{kind};base64,{base64.b64encode(best).decode()}"


def _saved(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
