"""One packed row as the page shows it: strips of runs, documents, tokens in words, pictures. Plain values for the template.

Colours go by medium: number 0, 1, … of the row, modulo `COLOURS`.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import PIL.Image
import torch
from torch import Tensor

from datasets.show.summary import clean
from datasets.show.trace import Document
from vlm.batch import IGNORE, Batch
from vlm.command import printable
from vlm.processor import Processor
from vlm.text_stream import TextStream

COLOURS = 8
MAX_TOKENS = 100_000  # shown in words on one page; strips show all
MAX_PICTURES = 600  # on one page
MAX_FRAMES = 8  # shown of a clip
MAX_SIDE, MAX_PNG = 256, 32 << 10  # pixels and bytes, beyond which a picture is shrunk and becomes a JPEG


@dataclass
class Budget:
    """What one page may still hold."""

    tokens: int = MAX_TOKENS
    pictures: int = MAX_PICTURES


@dataclass(frozen=True)
class Token:
    """`kind`: learnt, given or special; `medium`: the one it brings; `colour`: of the medium that it sees (None: of none)."""

    text: str
    kind: str
    hint: str
    colour: int | None
    pictures: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Piece:
    """A document, or what of it stands in this row."""

    key: str
    source: str
    about: str
    first: bool  # it begins here
    last: bool  # it ends here
    tokens: list[Token]
    hidden: int  # tokens that the page has no room for


@dataclass(frozen=True)
class Row:
    """For the strips, runs (start, stop, value): `documents`, `targets` by shade, `media` by colour."""

    number: int
    place: str
    length: int
    filled: int
    learnt: int
    pictures: int
    documents: list[tuple[int, int, int]]
    targets: list[tuple[int, int, int]]
    media: list[tuple[int, int, int]]
    placeholders: list[tuple[int, int]]  # place, colour
    pieces: list[Piece]


def row_view(batch: Batch, b: int, pieces: list[Piece], number: int, place: str) -> Row:
    """Row `b` of a batch as strips, with its `pieces` in words."""
    target, colour = targets(batch)[b], colours(batch, b)
    shade = torch.where(target, batch.document[b] % 2, -1)
    starts = _placeholders(batch, b)
    return Row(
        number, place, batch.tokens.shape[1], int(batch.lengths[b]), int(target.sum()), len(starts),
        [span for span in runs(batch.document[b].tolist()) if span[2] >= 0],
        [run for run in runs(shade.tolist()) if run[2] >= 0],
        [run for run in runs(colour.tolist()) if run[2] >= 0],
        [(start, int(colour[start])) for start in starts],
        pieces,
    )  # fmt: skip


def row_pieces(
    batch: Batch, b: int, origin: Tensor, documents: Sequence[Document], processor: Processor, budget: Budget | None
) -> list[Piece]:
    """The documents of row `b`, counted as seen. No budget: no words.

    `origin` [B, T] is each token's place in `documents`, -1 where the packer added one by itself.
    """
    pieces, target = [], targets(batch)[b]
    for start, stop, d in runs(batch.document[b].tolist()):
        if d < 0:
            continue
        owner, seen = int(origin[b, start:stop].max()), batch.image_index[b, start:stop]
        document = documents[owner] if owner >= 0 else Document("", "", stop - start, 0)
        media = seen[seen >= 0].unique()
        frames = int(torch.isin(batch.media_of_frame, media).sum())
        learnt = int(target[start:stop].sum())
        if budget is not None:
            about = f"{stop - start:,} tokens, {learnt:,} learnt" + (f", {frames} image{'s' * (frames > 1)}" if frames else "")
            pieces.append(_piece(_Words(batch, b, processor, budget), start, stop, document, about))
        document.packed, document.learnt = document.packed + stop - start, document.learnt + learnt
        document.images += frames
    return pieces


def colours(batch: Batch, b: int) -> Tensor:
    """[T] the colour of the medium that each token of row `b` sees, -1 = none."""
    first = int((batch.media_document[:, 0] < b).sum())
    return torch.where(batch.image_index[b] >= 0, (batch.image_index[b] - first) % COLOURS, -1)


def _placeholders(batch: Batch, b: int) -> list[int]:
    """Where a row's media stand: where the medium seen becomes another."""
    return [start for start, _, medium in runs(batch.image_index[b].tolist()) if medium >= 0]


def targets(batch: Batch) -> Tensor:
    """[B, T] bool: is this token predicted, at the position before it."""
    return torch.nn.functional.pad(batch.labels[:, :-1] != IGNORE, (1, 0), value=False)


def runs(values: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, stop, value) of each stretch of one value."""
    found, start = [], 0
    for value, group in itertools.groupby(values):
        stop = start + sum(1 for _ in group)
        found.append((start, stop, value))
        start = stop
    return found


def _piece(words: _Words, start: int, stop: int, document: Document, about: str) -> Piece:
    offset, shown = document.packed, min(stop - start, words.budget.tokens)
    words.budget.tokens -= shown
    end = offset + stop - start
    if stop - start < document.tokens:
        about += f" · tokens {offset:,}–{end - 1:,} of {document.tokens:,}"
    tokens = list(words.tokens(start, start + shown))
    whole = end >= document.tokens
    return Piece(clean(document.key), clean(document.source), about, not offset, whole, tokens, stop - start - shown)


class _Words:
    """Tokens of row `b` in words, with the pictures among them."""

    def __init__(self, batch: Batch, b: int, processor: Processor, budget: Budget) -> None:
        self.batch, self.b, self.tokenizer, self.budget = batch, b, processor.tokenizer, budget
        added = processor.tokenizer.get_added_tokens_decoder().items()
        self.special = {number: token.content for number, token in added if token.special}
        self.target, self.colour, self.starts = targets(batch)[b], colours(batch, b), set(_placeholders(batch, b))

    def tokens(self, start: int, stop: int) -> Iterator[Token]:
        """Those that are whole characters only together are shown together, with the last one's marks."""
        seen = self.batch.image_index[self.b, start:stop]
        first = int(seen[seen >= 0].min()) if bool((seen >= 0).any()) else 0
        stream, waiting = TextStream(self.tokenizer), []
        for t in range(start, stop):
            number = int(self.batch.tokens[self.b, t])
            waiting.append(number)
            if number in self.special:
                if left := stream.finish():
                    yield self._token(left, t - 1, waiting[:-1], first)
                yield self._token(self.special[number], t, [number], first, special=True)
                stream, waiting = TextStream(self.tokenizer), []
            elif text := stream.push(number):
                yield self._token(text, t, waiting, first)
                waiting = []
        if left := stream.finish():
            yield self._token(left, stop - 1, waiting, first)

    def _token(self, text: str, t: int, ids: Sequence[int], first: int, special: bool = False) -> Token:
        medium, kind = int(self.batch.image_index[self.b, t]), "learnt" if self.target[t] else "given"
        sees = f"sees image {medium - first + 1}" if medium >= 0 else "sees no image"
        position = int(self.batch.positions[self.b, t])
        hint = f"{t}: position {position}, id {' '.join(map(str, ids))}, {kind}, {sees}"
        brings = special and t in self.starts
        pictures, label = (tuple(self._pictures(medium)), f"image {medium - first + 1}") if brings else ((), "")
        colour = int(self.colour[t]) if medium >= 0 else None
        return Token(printable(text), f"{kind} special" if special else kind, hint, colour, pictures, label)

    def _pictures(self, medium: int) -> Iterator[str]:
        for frame in (self.batch.media_of_frame == medium).nonzero().flatten().tolist()[:MAX_FRAMES]:
            if self.budget.pictures:
                self.budget.pictures -= 1
                yield data_url(self.batch.images[frame])


def data_url(pixels: Tensor) -> str:
    """uint8 [3, H, W] → a picture of at most `MAX_SIDE` pixels a side; exact where it is small."""
    image = PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer, kind = io.BytesIO(), "png"
    image.save(buffer, "PNG")
    if buffer.tell() > MAX_PNG:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
