"""What a user hands in: an ordered list of text, image and video segments.

A caption pair, an interleaved page, a chat with images, a question with answer and rationale, plain text: all one type.
Nothing here is decoded or tokenized; `vlm.Processor` does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import PIL.Image


class Drawing(ABC):
    """A picture that is drawn whenever it is decoded, so that it takes no room while it waits; the same each time."""

    @abstractmethod
    def render(self) -> PIL.Image.Image:
        """A picture of any mode."""


Picture = bytes | PIL.Image.Image | np.ndarray | Drawing


def drawn(picture: Picture) -> bytes | PIL.Image.Image:
    """What a `Drawing` draws, and pixels as a PIL image; encoded bytes and PIL images as they are. Raises `ValueError` for
    anything else."""
    found = picture.render() if isinstance(picture, Drawing) else picture
    if isinstance(found, np.ndarray):
        return _from_pixels(found)
    if not isinstance(found, bytes | PIL.Image.Image):
        raise ValueError(f"a picture is encoded bytes, a PIL image, uint8 pixels or a Drawing, not {type(found).__name__}")
    return found


def _from_pixels(pixels: np.ndarray) -> PIL.Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"a picture's pixels are uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    return PIL.Image.fromarray(pixels)


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
    """One picture: encoded bytes (PNG, JPEG, …), a PIL image of any mode, uint8 RGB pixels [H, W, 3], or a `Drawing` of one."""

    data: Picture


@dataclass(frozen=True, slots=True)
class Video:
    """A clip: frames in order, each as in `Image`; `times` in seconds from its start, one a frame (default 0, 1, 2, …)."""

    frames: tuple[Picture, ...]
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
