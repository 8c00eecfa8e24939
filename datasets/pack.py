"""Documents → rows of T tokens: one lane of the loader, with an exact and small state.

A lane takes its own draws of the mixture, keeps a small window of tokenized documents and fills one row a step: the oldest
document first, then whichever fits whole, oldest first (first-fit). What is left at a row's end is filled by cutting plain
text, which goes on in a later row. Plain means that all text is learnt: prose, code, interleaved pages. A document with given
text, such as a question, is never parted from its answer: it stays whole, or loses its end when it is longer than a row.
Documents with images are cut only when no row could hold them, before an image where one stands in the later half.
A piece that continues a document starts new positions and sees none of the images before the cut.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass, field

from datasets.mixture import Draw, Mixture
from datasets.source import BadSample, permuted
from vlm.processor import Encoded, Processor
from vlm.sample import Text, Video

MIN_PIECE = 16  # tokens: shorter gaps at a row's end stay padding
MAX_BAD = 1000  # samples in a row that cannot be used, after which a lane gives up
MAX_FRAMES = 1024  # of one document: all are decoded while it waits

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What went into some rows, and what did not. `+=` adds two of them."""

    tokens: int = 0
    learnt: int = 0  # labels that are not IGNORE
    images: int = 0  # frames
    documents: int = 0  # begun in these rows
    cuts: int = 0  # pieces that end before their document does
    truncated: int = 0  # documents that lost their end
    drawn: Counter[str] = field(default_factory=Counter)  # by source, skipped ones included
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (source, reason)

    def __iadd__(self, other: Counts) -> Counts:
        for f in dataclasses.fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self


@dataclass(slots=True)
class Pending:
    """What is left of a drawn document: `document` starts at token `offset` of the whole."""

    draw: Draw
    offset: int
    document: Encoded
    plain: bool

    @property
    def frames(self) -> int:
        return sum(len(pixels) for _, pixels, _ in self.document.media)


def piece(document: Encoded, start: int, stop: int) -> Encoded:
    """Tokens [start, stop) with the media among them, as a document of its own."""
    media = tuple((p - start, pixels, times) for p, pixels, times in document.media if start <= p < stop)
    return Encoded(document.tokens[start:stop], document.learn[start:stop], media)


class Lane:
    """Lane `lane` of `lanes`: one draw of each round of `lanes` draws of the mixture → rows of `length` tokens.

    `max_images` bounds the frames a row; `window` the documents that wait. `state` is what `state()` gave. The first bad sample
    of each source and reason is named in the log; `reported` remembers them, and lanes may share it.
    """

    def __init__(
        self, mixture: Mixture, processor: Processor, *, lane: int, lanes: int, length: int, max_images: int = 64,
        window: int = 8, state: dict | None = None, reported: set[tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self.mixture, self.processor = mixture, processor
        self.lane, self.lanes, self.length, self.max_images, self.window = lane, lanes, length, max_images, window
        self.reported = set() if reported is None else reported
        self.draws = 0 if state is None else state["draws"]
        self._lost = Counts()  # waiting documents that a resumed run could not read again: counted in the next row
        restored = (self._restore(*entry) for entry in state["pending"]) if state else ()
        self.pending = [waiting for waiting in restored if waiting]

    def state(self) -> dict:
        """Plain numbers, for JSON: draws taken, and (source, epoch, sample, token offset) of each waiting document."""
        return {"draws": self.draws, "pending": [[*waiting.draw, waiting.offset] for waiting in self.pending]}

    def row(self) -> tuple[list[Encoded], Counts]:
        """The next row's documents; none when all sources are used up."""
        counts, room, frames = self._lost, self.length, self.max_images
        self._lost = Counts()
        row: list[Encoded] = []
        while True:
            self._refill(counts)
            choice = self._choose(room, frames, first=not row)
            if choice is None:
                return row, counts
            taken = self._take(*choice, counts)
            row.append(taken)
            room -= len(taken)
            frames -= sum(len(pixels) for _, pixels, _ in taken.media)
            counts.tokens += len(taken)
            counts.learnt += int(taken.learn[1:].sum())

    def _choose(self, room: int, frames: int, first: bool) -> tuple[int, int] | None:
        """(which waiting document, how many of its tokens) comes next in a row with this much room."""
        for i, waiting in enumerate(self.pending):
            if len(waiting.document) <= room and waiting.frames <= frames:
                return i, len(waiting.document)
            if first:
                return i, self._cut(waiting.document)
        if room >= MIN_PIECE:
            for i, waiting in enumerate(self.pending):
                if waiting.plain and not waiting.document.media:
                    return i, room
        return None

    def _cut(self, document: Encoded) -> int:
        """Where to cut a document that no row holds: before an image where one stands in the later half."""
        stop, frames = self.length, 0
        for position, pixels, _ in document.media:
            frames += len(pixels)
            if frames > self.max_images:
                stop = min(stop, position)
                break
        return max((p for p, _, _ in document.media if stop // 2 < p <= stop), default=stop)

    def _take(self, i: int, size: int, counts: Counts) -> Encoded:
        waiting = self.pending[i]
        taken, rest = piece(waiting.document, 0, size), piece(waiting.document, size, len(waiting.document))
        counts.documents += waiting.offset == 0
        counts.images += sum(len(pixels) for _, pixels, _ in taken.media)
        if len(rest):
            counts.cuts += 1
            self.pending[i] = dataclasses.replace(waiting, offset=waiting.offset + size, document=rest)
        else:
            del self.pending[i]
        return taken

    def _number(self) -> int:
        """Which draw of the mixture is next.

        Lanes change places from round to round: a mixture of 1 : 3 repeats every 4 draws, and of 8 lanes that keep their place
        two would never see anything but the first source.
        """
        return self.draws * self.lanes + permuted(self.lane, self.lanes, seed=self.lanes, epoch=self.draws)

    def _refill(self, counts: Counts) -> None:
        bad = 0
        while len(self.pending) < self.window:
            draw = self.mixture.draw(self._number())
            if draw is None:
                return
            self.draws += 1
            name = self.mixture.names[draw.source]
            counts.drawn[name] += 1
            try:
                self.pending.append(self._prepare(draw, counts))
                bad = 0
            except BadSample as error:
                bad += 1
                self._skip(name, error, counts)
                if bad == MAX_BAD:
                    raise ValueError(f"{bad:,} samples in a row cannot be used, the last of source {name!r}: {error}") from None

    def _skip(self, name: str, error: BadSample, counts: Counts) -> None:
        counts.skipped[name, error.reason] += 1
        if (name, error.reason) not in self.reported:
            self.reported.add((name, error.reason))
            log.warning("source %s: a sample is skipped (%s); further ones are only counted", name, error)

    def _restore(self, source: int, epoch: int, sample: int, offset: int) -> Pending | None:
        try:
            waiting = self._prepare(Draw(source, epoch, sample), Counts())
        except BadSample as error:
            return self._skip(self.mixture.names[source], error, self._lost)
        rest = piece(waiting.document, offset, len(waiting.document))
        return dataclasses.replace(waiting, offset=offset, document=rest)

    def _prepare(self, draw: Draw, counts: Counts) -> Pending:
        """Fetch and tokenize one document; given text too long for a row is shortened. Raises `BadSample`."""
        sample = self.mixture.sources[draw.source].get(draw.epoch, draw.sample)
        if sum(not isinstance(segment, Text) for segment in sample.segments) > MAX_FRAMES:
            raise BadSample("too many images", f"{sample.key}: over {MAX_FRAMES:,}")
        if any(len(segment.frames) > self.max_images for segment in sample.segments if isinstance(segment, Video)):
            raise BadSample("clip too long", f"{sample.key}: over {self.max_images} frames")
        try:
            document = self.processor.encode(sample)
        except ValueError as error:
            raise BadSample("broken media", f"{sample.key}: {error}") from None
        plain = all(segment.learn for segment in sample.segments if isinstance(segment, Text))
        if not plain:
            whole, document = len(document), piece(document, 0, self._fitting(document))
            counts.truncated += len(document) < whole
        if not document.learn[1:].any():
            raise BadSample("nothing to learn", f"{sample.key}: within {self.length} tokens and {self.max_images} images")
        return Pending(draw, 0, document, plain)

    def _fitting(self, document: Encoded) -> int:
        """Tokens of the document's longest beginning that a row holds."""
        frames = 0
        for position, pixels, _ in document.media:
            frames += len(pixels)
            if frames > self.max_images:
                return min(position, self.length)
        return min(len(document), self.length)
