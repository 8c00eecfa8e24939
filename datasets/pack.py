"""Documents → rows of T tokens: one lane of the loader, with an exact and small state.

A lane takes its own draws of the mixture, keeps a small window of tokenized documents and fills one row a step: the oldest
document first, then whichever fits whole, oldest first (first-fit). What is left at a row's end is filled by cutting plain
text, which goes on in a later row. Plain means that all text is learnt: prose, code, interleaved pages. A document with given
text, such as a question, is never parted from its answer: it stays whole, or loses its end when it is longer than a row.
Plain documents with images are cut for a row's end, too, but only before an image or in the text before the first: an image
keeps with its text. Only where no row could hold it a document is cut elsewhere, before an image where one stands in the later
half. A piece that continues a document starts new positions and sees none of the images before the cut.

What waits is no part of what was seen: a document counts when its first piece is taken. Encoded pictures wait with it up to a
budget of bytes; of documents beyond, they are fetched again when a row takes them, which moves nothing.

Reading and tokenizing a document between the decoding of two pictures takes nearly twice the time of doing it after another
document: the processor's caches hold other code. So the loader has each lane read ahead what its next row will draw, one lane
after the other, and only then fill rows. What was read ahead is not drawn yet, and in no state.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
import PIL.Image

from datasets.counts import Counts, Skip
from datasets.document import piece, read_part
from datasets.mixture import Draw, Mixture
from datasets.source import BadSample, permuted
from vlm.processor import Encoded, Processor
from vlm.sample import Picture

MIN_PIECE = 16  # tokens: shorter gaps at a row's end stay padding
MAX_BAD = 1000  # samples in a row that cannot be used, after which a lane gives up; more where many may be bad
WAITING = 256 << 20  # bytes of encoded pictures that wait in one process
EXAMPLES = 5  # bad samples of each source and reason that are told in full

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pending:
    """What is left of one part of a drawn document (datasets/document.py): it starts at token `offset` of the part."""

    draw: Draw
    offset: int
    document: Encoded
    plain: bool
    key: str
    part: int
    parts: int
    cropped: int  # tokens at its end that no row had room for
    frames: int = field(init=False)
    bytes: int = field(init=False)  # of pictures

    def __post_init__(self) -> None:
        frames = [frame for _, frames, _ in self.document.media for frame in frames]
        self.frames, self.bytes = len(frames), sum(map(_size, frames))

    @property
    def first(self) -> bool:
        """Has no piece of the document been taken yet?"""
        return self.offset == self.part == 0


class Lane:
    """Lane `lane` of `lanes`: one draw of each round of `lanes` draws of the mixture → rows of `length` tokens.

    `max_images` bounds the frames a row; `window` the documents that wait, `waiting` the bytes of their pictures. `state` is
    what `state()` gave. The first bad sample of each source and reason is named in the log, the first few in the counts;
    `reported` remembers how many, and lanes may share it. The larger the share `max_skipped` that may be bad, the more of them
    may follow each other.
    """

    def __init__(
        self, mixture: Mixture, processor: Processor, *, lane: int, lanes: int, length: int, max_images: int = 64,
        window: int = 8, waiting: int = WAITING, max_skipped: float = 0.0, state: dict | None = None,
        reported: Counter[tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self.mixture, self.processor = mixture, processor
        self.lane, self.lanes, self.length, self.max_images, self.window = lane, lanes, length, max_images, window
        self.waiting, self.most_bad = waiting, _most_bad(mixture, max_skipped, window)
        self.reported = Counter() if reported is None else reported
        self.draws = 0 if state is None else state["draws"]
        self._bad = 0  # samples left out since the last that was used
        self._lost = Counts()  # waiting documents that a resumed run could not read again: counted in the next row
        self.pending: list[Pending] = []
        self._ahead: deque[tuple[Draw, Pending | BadSample]] = deque()  # of the draws after `draws`
        self._row_draws = 0  # of the last row
        for entry in state["pending"] if state else ():
            self._restore(*entry)

    def state(self) -> dict:
        """Plain numbers, for JSON: draws taken, and (source, epoch, sample, token offset, part) of each waiting document."""
        return {"draws": self.draws, "pending": [[*w.draw, w.offset, w.part] for w in self.pending]}

    def row(self) -> tuple[list[Encoded], Counts]:
        """The next row's documents; none when all sources are used up."""
        counts, room, frames = self._lost, self.length, self.max_images
        self._lost, before = Counts(), self.draws
        counts.positions += self.length
        row: list[Encoded] = []
        while True:
            self._refill(counts)
            choice = self._choose(room, frames, first=not row)
            if choice is None:
                self._row_draws = self.draws - before
                return row, counts
            name = self.mixture.names[self.pending[choice[0]].draw.source]
            taken = self._take(*choice, name, counts)
            if taken is None:
                continue
            row.append(taken)
            images = sum(len(pixels) for _, pixels, _ in taken.media)
            room, frames = room - len(taken), frames - images
            counts.tokens, counts.images = counts.tokens + len(taken), counts.images + images
            counts.learnt += int(np.count_nonzero(taken.learn[1:]))
            counts.source_tokens[name] += len(taken)
            counts.source_images[name] += images

    def _choose(self, room: int, frames: int, first: bool) -> tuple[int, int] | None:
        """(which waiting document, how many of its tokens) comes next in a row with this much room."""
        for i, waiting in enumerate(self.pending):
            if len(waiting.document) <= room and waiting.frames <= frames:
                return i, len(waiting.document)
            if first:
                return i, self._cut(waiting.document)
        if room >= MIN_PIECE:
            plain = [(i, waiting.document) for i, waiting in enumerate(self.pending) if waiting.plain]
            for i, document in sorted(plain, key=lambda entry: bool(entry[1].media)):  # text before pages
                size = self._beginning(document, room, frames)
                if size >= MIN_PIECE:
                    return i, size
        return None

    @staticmethod
    def _beginning(document: Encoded, room: int, frames: int) -> int:
        """Tokens of a plain document's longest beginning that has room and ends before an image, or before any."""
        size = room
        for position, pixels, _ in document.media:
            if position > room:
                break
            size = position
            frames -= len(pixels)
            if frames < 0:
                break
        return size

    def _cut(self, document: Encoded) -> int:
        """Where to cut a document that no row holds: before an image where one stands in the later half."""
        stop, frames = self.length, 0
        for position, pixels, _ in document.media:
            frames += len(pixels)
            if frames > self.max_images:
                stop = min(stop, position)
                break
        return max((p for p, _, _ in document.media if stop // 2 < p <= stop), default=stop)

    def _take(self, i: int, size: int, name: str, counts: Counts) -> Encoded | None:
        """The next piece of a waiting document, decoded only now: what waits is small. `None` when its media are broken."""
        waiting = self.pending[i]
        counts.drawn[name] += waiting.first
        try:
            taken = self._with_pixels(waiting, size)
        except BadSample as error:
            del self.pending[i]
            self._skip(name, error, counts)
            return None
        self._bad = 0
        rest = piece(waiting.document, size, len(waiting.document))
        counts.documents += waiting.first
        counts.truncated += waiting.cropped > 0
        counts.cropped += waiting.cropped
        counts.cuts += bool(len(rest) or waiting.part + 1 < waiting.parts)
        if len(rest):
            self.pending[i] = dataclasses.replace(waiting, offset=waiting.offset + size, document=rest)
        else:
            self.pending[i : i + 1] = self._next_part(waiting, counts)
        return taken

    def _next_part(self, waiting: Pending, counts: Counts) -> list[Pending]:
        if waiting.part + 1 == waiting.parts:
            return []
        try:
            return [self._prepare(waiting.draw, waiting.part + 1)]
        except BadSample as error:
            self._skip(self.mixture.names[waiting.draw.source], error, counts)
            return []

    def _with_pixels(self, waiting: Pending, size: int) -> Encoded:
        """Its first `size` tokens. Raises `BadSample`."""
        taken = piece(waiting.document, 0, size)
        if any(frame is None for _, frames, _ in taken.media for frame in frames):
            again = self._prepare(waiting.draw, waiting.part).document
            taken = piece(again, waiting.offset, waiting.offset + size)
        try:
            return self.processor.with_pixels(taken)
        except ValueError as error:
            raise BadSample("broken media", f"{waiting.key}: {error}") from None

    def _number(self) -> int:
        """Which draw of the mixture is read next.

        Lanes change places from round to round: a mixture of 1 : 3 repeats every 4 draws, and of 8 lanes that keep their place
        two would never see anything but the first source.
        """
        number = self.draws + len(self._ahead)
        return number * self.lanes + permuted(self.lane, self.lanes, seed=self.lanes, epoch=number)

    def read_ahead(self) -> None:
        """Have at hand as many documents as the last row drew, `window` at most, while pictures leave half their room."""
        while len(self._ahead) < min(self._row_draws, self.window) and self._bytes() < self.waiting // 2:
            if not self._read_next():
                return

    def _read_next(self) -> bool:
        """Read one more document ahead, if there is one."""
        draw = self.mixture.draw(self._number())
        if draw is None:
            return False
        try:
            self._ahead.append((draw, self._within_room(self._prepare(draw))))
        except BadSample as error:
            self._ahead.append((draw, BadSample(error.reason, error.detail)))  # the first one's traceback holds the sample
        return True

    def _refill(self, counts: Counts) -> None:
        while len(self.pending) < self.window and (self._ahead or self._read_next()):
            draw, document = self._ahead.popleft()
            self.draws += 1
            if isinstance(document, Pending):
                self.pending.append(document)
            else:
                name = self.mixture.names[draw.source]
                counts.drawn[name] += 1
                self._skip(name, document, counts)

    def _bytes(self) -> int:
        """Of the encoded pictures that wait."""
        return sum(w.bytes for w in self.pending) + sum(d.bytes for _, d in self._ahead if isinstance(d, Pending))

    def _within_room(self, document: Pending) -> Pending:
        """Without its pictures where there is no room for them."""
        if self._bytes() + document.bytes <= self.waiting:
            return document
        return dataclasses.replace(document, document=_without_frames(document.document))

    def _skip(self, name: str, error: BadSample, counts: Counts) -> None:
        counts.skipped[name, error.reason] += 1
        self.reported[name, error.reason] += 1
        if self.reported[name, error.reason] <= EXAMPLES:
            counts.examples.append(Skip(name, error.reason, error.detail))
        if self.reported[name, error.reason] == 1:
            log.warning("source %s: a sample is skipped (%s); further ones are only counted", name, error)
        self._bad += 1
        if self._bad == self.most_bad:
            raise ValueError(f"{self._bad:,} samples in a row cannot be used, the last of source {name!r}: {error}")

    def _restore(self, source: int, epoch: int, sample: int, offset: int, part: int = 0) -> None:
        try:
            waiting = self._prepare(Draw(source, epoch, sample), part)
        except BadSample as error:
            name = self.mixture.names[source]
            self._lost.drawn[name] += offset == part == 0
            self._skip(name, error, self._lost)
            return
        rest = piece(waiting.document, offset, len(waiting.document))
        self.pending.append(self._within_room(dataclasses.replace(waiting, offset=offset, document=rest)))

    def _prepare(self, draw: Draw, number: int = 0) -> Pending:
        """Fetch and tokenize one document, or one part of a very long one. Raises `BadSample`."""
        sample = self.mixture.sources[draw.source].get(draw.epoch, draw.sample)
        part = read_part(sample, self.processor, number=number, length=self.length, max_images=self.max_images)
        return Pending(draw, 0, part.document, part.plain, sample.key, part.number, part.parts, part.cropped)


def _most_bad(mixture: Mixture, max_skipped: float, window: int) -> int:
    """Bad samples after which no good one is to be expected: where all may be bad, a whole pass over the sources."""
    some = max(MAX_BAD, 2 * window)  # a window fills before a row is taken
    everything = max(some, sum(map(len, mixture.sources)))
    return everything if max_skipped == 1 else min(everything, round(some / (1 - max_skipped)))


def _size(frame: Picture | None) -> int:
    """Bytes in memory; of a drawing, which is a few names and numbers, none."""
    if isinstance(frame, PIL.Image.Image):
        return frame.width * frame.height * len(frame.getbands())
    if isinstance(frame, np.ndarray):
        return frame.nbytes
    return len(frame) if isinstance(frame, bytes) else 0


def _without_frames(document: Encoded) -> Encoded:
    """The number of frames stays."""
    media = tuple((position, (None,) * len(frames), times) for position, frames, times in document.media)
    return Encoded(document.tokens, document.learn, media)
