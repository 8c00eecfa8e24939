"""One drawn sample → tokens that a row can take: what is plain, what is shortened, what is too much.

Text of any length is read: a plain document (all of its text learnt, no pictures) of over `PART` characters is tokenized part
by part, so that neither its tokens nor a resume's work grow with it. The seam between two parts is at the end of a line where
one is near. With pictures or given text a document is tokenized whole, and one over `LONGEST` characters is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.source import BadSample
from datasets.text import chunks
from vlm.processor import Encoded, Processor
from vlm.sample import Sample, Text, Video

PART = 1 << 18  # characters
LONGEST = 1 << 23  # characters
MAX_FRAMES = 1024  # of one document


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of `parts` of a document."""

    document: Encoded
    plain: bool  # may be cut
    number: int = 0
    parts: int = 1
    cropped: int = 0  # tokens at the end that no row had room for


def read_part(sample: Sample, processor: Processor, *, number: int, length: int, max_images: int) -> Part:
    """Tokenize one part. Given text too long for a row of `length` tokens is shortened. Raises `BadSample`."""
    texts = [segment for segment in sample.segments if isinstance(segment, Text)]
    _check_frames(sample, len(sample.segments) - len(texts), max_images)
    if not any(text.learn and text.text.strip() for text in texts):
        raise BadSample("nothing to learn", f"{sample.key}: no text that is learnt")
    plain, size = all(text.learn for text in texts), sum(len(text.text) for text in texts)
    if plain and len(texts) == len(sample.segments) and size > PART:
        return _one_of_many(sample, processor, number)
    if size > LONGEST:
        raise BadSample("too long", f"{sample.key}: {size:,} characters with pictures or given text, over {LONGEST:,}")
    document, cropped = _encode(sample, processor), 0
    if not plain:
        fitting = _fitting(document, length, max_images)
        document, cropped = piece(document, 0, fitting), len(document) - fitting
    if not document.learn[1:].any():
        raise BadSample("nothing to learn", f"{sample.key}: within {length} tokens and {max_images} images")
    return Part(document, plain, cropped=cropped)


def piece(document: Encoded, start: int, stop: int) -> Encoded:
    """Tokens [start, stop) with the media among them, as a document of its own."""
    if start == 0 and stop >= len(document):
        return document
    media = tuple((p - start, pixels, times) for p, pixels, times in document.media if start <= p < stop)
    return Encoded(document.tokens[start:stop], document.learn[start:stop], media)


def _check_frames(sample: Sample, media: int, max_images: int) -> None:
    if media > MAX_FRAMES:
        raise BadSample("too many images", f"{sample.key}: over {MAX_FRAMES:,}")
    if any(len(segment.frames) > max_images for segment in sample.segments if isinstance(segment, Video)):
        raise BadSample("clip too long", f"{sample.key}: over {max_images} frames")


def _one_of_many(sample: Sample, processor: Processor, number: int) -> Part:
    """The beginning token belongs to the first part, the end token to the last."""
    pieces = [part for text in sample.segments if isinstance(text, Text) for part in chunks(text.text, PART)]
    if number >= len(pieces):
        raise BadSample("nothing to learn", f"{sample.key}: white space alone")
    body = _encode(Sample((Text(pieces[number]),), sample.key, sample.source, framed=False), processor)
    bos = [processor.bos_id] if sample.framed and number == 0 and processor.bos_id is not None else []
    eos = [processor.eos_id] if sample.framed and number == len(pieces) - 1 else []
    learn = [*[False] * len(bos), *[True] * (len(body) + len(eos))]
    tokens = np.concatenate([bos, body.tokens, eos]).astype(np.int64)
    return Part(Encoded(tokens, np.array(learn, dtype=bool), ()), True, number, len(pieces))


def _encode(sample: Sample, processor: Processor) -> Encoded:
    try:
        return processor.encode_text(sample)
    except ValueError as error:
        raise BadSample("broken media", f"{sample.key}: {error}") from None


def _fitting(document: Encoded, length: int, max_images: int) -> int:
    """Tokens of the document's longest beginning that a row holds."""
    frames = 0
    for position, pixels, _ in document.media:
        frames += len(pixels)
        if frames > max_images:
            return min(position, length)
    return min(len(document), length)
