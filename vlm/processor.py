"""Samples → Batch: tokenizer and image preprocessing, and nothing learnt.

A document is `<bos>`, then its segments in order; each medium is one placeholder token, so adjacent images stay distinct.
`<eos>` closes every learnt stretch whose next text, past any pictures, is given, and the document's last text: it ends an
answer, not a paragraph between two pictures. A sample that is not `framed` (a chat) has neither unless it says so. Text is
tokenized segment by segment, so that a prompt has the same ids in training and generation; special tokens written out in a
user's text stay plain text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vlm.batch import IGNORE, Batch
from vlm.image import ImageTransform
from vlm.sample import Image, Sample, Segment, Text, Video

PAD, BOS, EOS, IMAGE = "<pad>", "<bos>", "<eos>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, IMAGE)
BORDER = "\n"  # no token of a tokenizer that begins texts with a blank reaches across it


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized document of L tokens with its decoded media."""

    tokens: np.ndarray  # [L] int64
    learn: np.ndarray  # [L] bool: is this token to be predicted
    # (position, frames, frame times); frames are uint8 [F, 3, H, W], or as the sample has them until `with_pixels`
    media: tuple[tuple[int, Any, tuple[float, ...]], ...]

    def __len__(self) -> int:
        return len(self.tokens)


class Processor:
    """Tokenizer + image transform. `tokenizer` must know the special tokens given by name (`ValueError` otherwise).

    For a model of text alone `image` and `medium` are `None`: a picture or clip in a sample is then refused. `around` is a
    token that stands before and after each medium, once between two (Idefics). `chat_template` is the tokenizer's, in Jinja,
    for `vlm.chat`; `template_bos` is what it knows as `bos_token` where no other text begins with one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image: ImageTransform | None,
        *,
        pad: str = PAD,
        bos: str | None = BOS,
        eos: str = EOS,
        medium: str | None = IMAGE,
        around: str | None = None,
        template_bos: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        if (image is None) != (medium is None):
            raise ValueError(f"an image transform and a medium token go together: {image} with {medium!r}")
        self.tokenizer, self.image, self.chat_template = tokenizer, image, chat_template
        self.special = {"pad": pad, "bos": bos, "eos": eos, "medium": medium}
        self.special |= {name: t for name, t in (("around", around), ("template_bos", template_bos)) if t is not None}
        self.around = [self._id(around)] if around else []
        self.pad_id, self.eos_id = self._id(pad), self._id(eos)
        self.bos_id, self.image_id = (None if name is None else self._id(name) for name in (bos, medium))
        tokenizer.no_truncation()  # published tokenizer files may carry both
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "<image>" typed by a user is text, not a picture
        self.prepends = self.tokenize("a") != self.tokenize(f"{BORDER}a")[len(self.tokenize(BORDER)) :]

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.tokenizer.encode_special_tokens = True  # neither a pickle nor a file of the tokenizer keeps it

    def _id(self, token: str | None) -> int:
        index = None if token is None else self.tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"tokenizer has no token {token!r}")
        return index

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def tokenize(self, text: str) -> list[int]:
        """Raises `ValueError` for text that is not Unicode (half a surrogate pair, as JSON may hold)."""
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise ValueError(f"text is not valid Unicode: {text[:40]!a}") from None

    def _continue(self, text: str) -> list[int]:
        """The ids of a text that goes on from another, without the blank that some tokenizers (SentencePiece) begin with."""
        return self.tokenize(BORDER + text)[len(self.tokenize(BORDER)) :] if self.prepends else self.tokenize(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids → text, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def encode(self, sample: Sample) -> Encoded:
        """Tokenize and decode one sample. Raises `ValueError` with a one-line reason for a broken image."""
        return self.with_pixels(self.encode_text(sample))

    def with_pixels(self, document: Encoded) -> Encoded:
        """Decode the media of `encode_text`. Raises `ValueError` with a one-line reason for a broken image."""
        media = tuple((p, self._frames(frames), times) for p, frames, times in document.media)
        return Encoded(document.tokens, document.learn, media)

    def _frames(self, frames: tuple) -> Tensor:
        """[F, 3, H, W]"""
        pixels = [self.image(frame) for frame in frames]
        return torch.stack(pixels) if len(pixels) > 1 else pixels[0][None]  # an image is not copied again

    def encode_text(self, sample: Sample) -> Encoded:
        """Tokenize one sample; its media keep their frames as they are."""
        tokens = [self.bos_id] if sample.framed and self.bos_id is not None else []
        learn = [False] * len(tokens)
        media = []
        ends = self._turn_ends(sample.segments) if sample.framed else [False] * len(sample.segments)
        for index, segment in enumerate(sample.segments):
            match segment:
                case Text(special=True):
                    ids = [self._id(segment.text)]
                case Text():
                    goes_on = index and isinstance(before_it := sample.segments[index - 1], Text) and not before_it.special
                    ids = self._continue(segment.text) if goes_on else self.tokenize(segment.text)
                    if ends[index]:
                        ids = [*ids, self.eos_id]
                case Image() | Video() if self.image is None:
                    raise ValueError("the model reads text alone, and the sample has a picture or clip")
                case Image() | Video():
                    frames = (segment.data,) if isinstance(segment, Image) else segment.frames
                    times = (0.0,) if isinstance(segment, Image) else segment.times or tuple(map(float, range(len(frames))))
                    if len(times) != len(frames) or not frames or not all(map(math.isfinite, times)):
                        raise ValueError(f"clip has {len(frames)} frames and times {times[:8]}")
                    around = self.around if sample.framed else []
                    before = [] if tokens[-1:] == around else around
                    media.append((len(tokens) + len(before), tuple(frames), times))
                    ids = [*before, self.image_id, *around]
            tokens += ids
            learn += [isinstance(segment, Text) and segment.learn] * len(ids)
        return Encoded(np.array(tokens, dtype=np.int64), np.array(learn, dtype=bool), tuple(media))

    @staticmethod
    def _turn_ends(segments: Sequence[Segment]) -> list[bool]:
        """Does an end token close a segment: a learnt text that is the last segment, or whose next text is given."""
        ends, following = [], None  # the next text, from the back
        for place, segment in reversed(list(enumerate(segments))):
            last = place == len(segments) - 1 or (following is not None and not following.learn)
            ends.append(isinstance(segment, Text) and segment.learn and last)
            following = segment if isinstance(segment, Text) else following
        return ends[::-1]

    def __call__(self, samples: Sequence[Sample], length: int | None = None) -> Batch:
        """One sample a row, right-padded to the longest (or to `length`)."""
        return self.collate([[self.encode(sample)] for sample in samples], length)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of what `collate` makes of any picture; of a model of text alone, which has none, (3, 1, 1)."""
        size = 1 if self.image is None else self.image.size
        return 3, size, size

    def collate(self, rows: Sequence[Sequence[Encoded]], length: int | None = None, images: Tensor | None = None) -> Batch:
        """Pack each list of documents into one row, their pictures into `images` [N, 3, H, W] where it is given. Raises
        `ValueError` when a row is longer than `length`."""
        longest = max((sum(map(len, row)) for row in rows), default=0)
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"a row of {longest} tokens does not fit a length of {length}")
        shape = (len(rows), length)
        tokens, labels = np.full(shape, self.pad_id), np.full(shape, IGNORE)
        positions = np.broadcast_to(np.arange(length), shape).copy()  # of padding: its column, so that no real token's is taken
        document, image_index = np.full(shape, -1), np.full(shape, -1)
        media_document, frames, media_of_frame, frame_time = [], [], [], []
        for b, row in enumerate(rows):
            start = 0
            for d, doc in enumerate(row):
                here = slice(start, start + len(doc))
                tokens[b, here], positions[b, here], document[b, here] = doc.tokens, np.arange(len(doc)), d
                labels[b, here][:-1] = np.where(doc.learn, doc.tokens, IGNORE)[1:]
                for position, pixels, times in doc.media:
                    medium = len(media_document)
                    image_index[b, start + position : here.stop] = medium
                    media_document.append((b, d))
                    frames.append(pixels)
                    media_of_frame += [medium] * len(pixels)
                    frame_time += times
                start = here.stop
        return Batch(
            *(torch.from_numpy(a.astype(np.int64)) for a in (tokens, labels, positions, document, image_index)),
            media_document=torch.tensor(media_document, dtype=torch.int64).reshape(-1, 2),
            images=torch.cat(frames, out=images) if frames else torch.zeros(0, *self.frame_shape, dtype=torch.uint8),
            media_of_frame=torch.tensor(media_of_frame, dtype=torch.int64),
            frame_time=torch.tensor(frame_time, dtype=torch.float32),
        )
