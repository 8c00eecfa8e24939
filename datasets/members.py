"""A Sample as files: what one key of a tar shard holds. Written one way, read in three.

`{key}.json` is `{"segments": [{"text": "…", "learn": true}, {"image": "0.png"}, {"video": ["1.png"], "times": [0.0]}]}`, and
every frame stands beside it as `{key}.0.png`, `{key}.1.jpg`, …; `id` and `meta` keep what the sample carried. Also read: the
usual pairs of an image and its caption, `{key}.txt` or `caption` in `{key}.json` as img2dataset writes them, and a `{key}.txt`
alone. Frames keep their bytes; nothing is decoded.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import PIL.Image

from datasets.source import BadSample
from vlm.sample import Image, Sample, Segment, Text, Video

PICTURES = ("jpg", "jpeg", "png", "webp")  # extensions of a caption pair's image
_SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


def to_members(sample: Sample) -> dict[str, bytes]:
    """Extension → bytes."""
    members: dict[str, bytes] = {}

    def store(data: bytes | PIL.Image.Image) -> str:
        data = data if isinstance(data, bytes) else _png(data)
        kind = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), "bin")
        name = f"{len(members)}.{kind}"
        members[name] = data
        return name

    segments: list[dict] = []
    for segment in sample.segments:
        match segment:
            case Text():
                segments.append({"text": segment.text, "learn": segment.learn})
            case Image():
                segments.append({"image": store(segment.data)})
            case Video():
                segments.append({"video": [store(frame) for frame in segment.frames], "times": list(segment.times)})
    record = {"id": sample.key, "meta": sample.meta, "segments": segments}
    text = json.dumps({k: v for k, v in record.items() if v}, ensure_ascii=False)
    return members | {"json": text.encode("utf-8", "replace")}


def from_members(key: str, members: Mapping[str, bytes], source: str) -> Sample:
    """The sample of one key. Raises `BadSample` for a layout that is none of the three."""
    record = _record(key, members["json"]) if "json" in members else {}
    if "segments" in record:
        try:
            segments = tuple(_segment(entry, members) for entry in record["segments"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadSample("bad record", f"{key}: {type(error).__name__} {error} in its segments") from None
        meta = record.get("meta")
        return Sample(segments, str(record.get("id") or key), source, meta if isinstance(meta, dict) else {})
    pictures = tuple(Image(members[ext]) for ext in PICTURES if ext in members)
    caption = _text(key, members["txt"]) if "txt" in members else record.get("caption") if pictures else None
    if not isinstance(caption, str):
        raise BadSample("unknown layout", f"{key}: neither segments nor a text among {', '.join(sorted(members))}")
    return Sample((*pictures, Text(caption)), key, source)


def _text(key: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("not UTF-8", f"{key}: {error}") from None


def _record(key: str, data: bytes) -> dict:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample("bad record", f"{key}: its JSON cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise BadSample("bad record", f"{key}: its JSON is no object")
    return record


def _segment(entry: dict, members: Mapping[str, bytes]) -> Segment:
    if "image" in entry:
        return Image(members[entry["image"]])
    if "video" in entry:
        return Video(tuple(members[name] for name in entry["video"]), tuple(float(t) for t in entry.get("times", ())))
    if not isinstance(entry["text"], str):
        raise TypeError("text is no string")
    return Text(entry["text"], bool(entry.get("learn", True)))


def _png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
