"""What a user hands in: an ordered list of text, image and video segments.

A caption pair, an interleaved page, a chat with images, a question with answer and rationale, plain text: all one type.
Nothing here is decoded or tokenized; `vlm.Processor` does that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import PIL.Image


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of text. `learn` says whether its tokens are predicted in training (an answer) or only given (a question).

    `special`: `text` is the name of one special token of the tokenizer, as a chat template writes; what a user wrote never is.
    """

    text: str
    learn: bool = True
    special: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """One picture: encoded bytes (PNG, JPEG, …) or a PIL image of any mode."""

    data: bytes | PIL.Image.Image


@dataclass(frozen=True, slots=True)
class Video:
    """A clip: frames in order, each as in `Image`; `times` in seconds from its start, one a frame (default 0, 1, 2, …)."""

    frames: tuple[bytes | PIL.Image.Image, ...]
    times: tuple[float, ...] = ()


Segment = Text | Image | Video


@dataclass(frozen=True, slots=True)
class Sample:
    """One document. `key` names it in messages and records; `source` is the data source it came from.

    `framed`: `Processor` adds the tokens that begin a document and end an answer; a chat template has written its own.
    """

    segments: tuple[Segment, ...]
    key: str = ""
    source: str = ""
    meta: dict = field(default_factory=dict, compare=False)
    framed: bool = True
