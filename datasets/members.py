"""A Sample as files: what one key of a tar shard holds. Written one way, read in three.

`{key}.json` is `{"segments": [{"text": "…", "learn": true}, {"image": "0.png"}, {"video": ["1.png"], "times": [0.0]}]}`, and
every frame stands beside it as `{key}.0.png`, `{key}.1.jpg`, …; `id` and `meta` keep what the sample carried. A chat is
`"framed": false`, and its template's own tokens are `"special": true`; neither is written otherwise. Also read: the usual
pairs of an image and its caption, `{key}.txt` or `caption` in `{key}.json` as img2dataset writes them, and a `{key}.txt` that
stands all alone: beside anything else it is the caption of a picture that is missing. Capitals in extensions mean nothing.
Frames keep their bytes, and nothing is decoded; what has none yet, a PIL image or a drawing, is written as PNG.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import PIL.Image

from datasets.source import BadSample
from vlm.image import FORMATS, to_png
from vlm.sample import Image, Picture, Sample, Segment, Text, Video, drawn

# Extensions of a caption pair's image, as the formats that can be decoded have them.
PICTURES = frozenset(end[1:] for end, kind in PIL.Image.registered_extensions().items() if kind in FORMATS)
MAX_PARTS = 1 << 21  # of a record: strings, and bytes outside of them; Python needs up to a hundred bytes for each
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


def to_members(sample: Sample) -> dict[str, bytes]:
    """Extension → bytes."""
    members: dict[str, bytes] = {}

    def store(picture: Picture) -> str:
        found = drawn(picture)
        data = found if isinstance(found, bytes) else to_png(found)
        kind = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), "bin")
        name = f"{len(members)}.{kind}"
        members[name] = data
        return name

    segments: list[dict] = []
    for segment in sample.segments:
        match segment:
            case Text():
                segments.append({"text": segment.text, "learn": segment.learn} | ({"special": True} if segment.special else {}))
            case Image():
                segments.append({"image": store(segment.data)})
            case Video():
                segments.append({"video": [store(frame) for frame in segment.frames], "times": list(segment.times)})
    record = {"id": sample.key, "meta": sample.meta, "segments": segments}
    framed = {} if sample.framed else {"framed": False}
    text = json.dumps({k: v for k, v in record.items() if v} | framed, ensure_ascii=False, allow_nan=False)
    return members | {"json": text.encode("utf-8", "replace")}


def from_members(key: str, members: Mapping[str, bytes], source: str, *, allow_special: bool = False) -> Sample:
    """The sample of one key; `members` by extension, in small letters. Raises `BadSample` for a layout that is not read."""
    named = ascii(key)[1:-1][:200]  # a key may hold anything, and stands in logs
    record = _record(named, members["json"]) if "json" in members else {}
    if "segments" in record:
        try:
            segments = tuple(_segment(entry, members) for entry in record["segments"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadSample("bad record", f"{named}: {type(error).__name__} {error} in its segments") from None
        if not allow_special and any(isinstance(one, Text) and one.special for one in segments):
            raise BadSample("special tokens", f"{named}: holds control tokens: `allow_special: true` on its source takes them")
        meta, framed = record.get("meta"), record.get("framed") is not False
        return Sample(segments, str(record.get("id") or key), source, meta if isinstance(meta, dict) else {}, framed)
    pictures = tuple(Image(data) for extension, data in members.items() if extension in PICTURES)
    others = ascii(", ".join(sorted(members)))[1:-1][:200]
    if not pictures and "txt" in members and len(members) > 1:
        raise BadSample("member without partner", f"{named}: a text, but no picture among {others}")
    caption = _text(named, members["txt"]) if "txt" in members else record.get("caption") if pictures else None
    if not isinstance(caption, str):
        raise BadSample("unknown layout", f"{named}: neither segments nor a text among {others}")
    return Sample((*pictures, Text(caption)), key, source)


def _text(key: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("not UTF-8", f"{key}: {error}") from None


def _record(key: str, data: bytes) -> dict:
    if len(data) > MAX_PARTS and _parts(data) > MAX_PARTS:
        raise BadSample("record too large", f"{key}: more than {MAX_PARTS:,} parts in {len(data):,} bytes of JSON")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample("bad record", f"{key}: its JSON cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise BadSample("bad record", f"{key}: its JSON is no object")
    return record


def _parts(data: bytes) -> int:
    """How many things a JSON text may hold, counted without holding them: only one long text may be as long as it likes."""
    parts = end = 0
    for string in _STRING.finditer(data):
        parts += string.start() - end + 1
        end = string.end()
        if parts > MAX_PARTS:
            return parts
    return parts + len(data) - end


def _segment(entry: dict, members: Mapping[str, bytes]) -> Segment:
    if "image" in entry:
        return Image(members[entry["image"].lower()])
    if "video" in entry:
        return Video(tuple(members[name.lower()] for name in entry["video"]), tuple(float(t) for t in entry.get("times", ())))
    if not isinstance(entry["text"], str):
        raise TypeError("text is no string")
    return Text(entry["text"], bool(entry.get("learn", True)), entry.get("special") is True)
