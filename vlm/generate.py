"""Generation with a cache: a prompt is read once, then one token a row and step.

There are two ways to go on, and they differ by rounding alone. `Rows` runs the model's modules; rows that have ended leave the
batch. On a GPU `vlm.decode_rows` replays one recorded step of kernels made for it, where `recording_key` says so. Here are ids
alone: stop strings and characters that span tokens are the business of `vlm.text_stream`.

B rows, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from vlm.batch import Batch
from vlm.cache import Cache
from vlm.recording_key import recording_key
from vlm.sampling import Chooser, Sampling

if TYPE_CHECKING:
    from vlm.writer import Writer

Finish = Literal["stop", "length"]
Ends = Callable[[list[int]], bool]  # do these new tokens of a row end its text
Written = list[tuple[int, float]]  # a token and its log-probability for each row
ROUND = 256  # a recorded step's cache is a multiple of it
RECORDED = 4  # new tokens from which recording a step pays
MOST_ROWS = 32  # that the kernels' tiles are made for


@dataclass(frozen=True)
class Generated:
    """For each row its new tokens, a stop token left out, and the model's log-probability of each (at temperature 1).

    Sample j of prompt i is row i · num_samples + j; of a beam search, the j-th best.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    finish: list[Finish]  # did it stop, or was it cut at `max_new_tokens`
    scores: list[float] | None = None  # of a beam search: see `vlm.beam`


@dataclass(frozen=True, slots=True)
class NewToken:
    """What a step gave one row."""

    row: int
    token: int
    logprob: float
    finish: Finish | None  # `None`: the row goes on


class Cursor:
    """The rows being written: their cache, where each one's next token goes, and the logits [B, V] for it."""

    def __init__(self, model: Writer, batch: Batch, new_tokens: int, key: Hashable | None = None) -> None:
        """Read the prompts, with a `recording_key` as `vlm.decode_prompt` does.

        Raises `ValueError` on rows with several documents, and on empty ones.
        """
        if (batch.document > 0).any():
            raise ValueError("generation takes one document a row")
        if (batch.document.diff(dim=1) > 0).any():
            raise ValueError("generation takes prompts padded on the right; here padding stands before a token")
        if not (batch.lengths > 0).all():
            raise ValueError(f"the prompt of row {int(batch.lengths.argmin())} is empty: there is nothing to go on from")
        self.model, self.key = model, key
        rows, longest = batch.tokens.shape
        weight, length = model.decoder.embedding.weight, longest + new_tokens
        self.reading = None
        if key is not None:
            from vlm.decode_prompt import read

            length = math.ceil(length / ROUND) * ROUND
            logits, self.cache, self.reading = read(model, batch, length, key)
        else:
            self.cache = Cache.empty(model.decoder.config, rows, length, weight.device, weight.dtype)
            logits = model.read_prompts(batch, self.cache)
        self.shared = self.reading is not None  # the cache, with what is kept for other prompts
        self.positions = batch.positions.gather(1, batch.lengths[:, None] - 1)[:, 0] + 1
        self.logits = precise(logits)

    def close(self) -> None:
        """Nothing of it is used any more."""
        reading, self.reading, self.cache = self.reading, None, None
        if reading is not None:
            reading.close(self.model)

    def expand(self, count: int) -> None:
        """Each row `count` times, side by side."""
        if count > 1:
            self.cache.expand(count)
            self.shared = False
            self.positions, self.logits = (t.repeat_interleave(count, dim=0) for t in (self.positions, self.logits))

    def take(self, index: Tensor) -> None:
        """Go on with rows `index`, in that order."""
        self.cache.reorder(index)
        self.positions, self.logits = self.positions[index], self.logits[index]

    def feed(self, tokens: Tensor) -> None:
        """One more token [B] in each row."""
        self.logits = precise(self.model.decode_step(tokens, self.positions, self.cache))
        self.positions = self.positions + 1


def precise(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Going(Protocol):
    """Rows that are being written."""

    def read(self) -> Written:
        """What the last step wrote in each row."""

    def advance(self, going: list[int]) -> None:
        """Another token in these of the rows that were read, the others having ended."""

    def close(self) -> None:
        """Nothing more is written."""


class Rows:
    """Step by step through the model's modules: the reference, for every device and precision."""

    def __init__(self, cursor: Cursor, chooser: Chooser) -> None:
        self.cursor, self.chooser = cursor, chooser
        self.tokens = chooser(cursor.logits)

    def read(self) -> Written:
        return written(chosen(self.cursor.logits, self.tokens))

    def advance(self, going: list[int]) -> None:
        tokens = self.tokens
        if len(going) < len(tokens):
            index = torch.tensor(going, device=tokens.device)
            tokens = tokens[index]
            self.cursor.take(index)
            self.chooser.keep(going)
        self.cursor.feed(tokens)
        self.tokens = self.chooser(self.cursor.logits)

    def close(self) -> None:
        pass


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """Tokens [B] and their log-probabilities by logits [B, V], side by side, [B, 2], so that they reach the host together."""
    logprobs = logits.log_softmax(dim=-1).gather(1, tokens[:, None])
    return torch.cat((tokens[:, None].to(logprobs.dtype), logprobs), dim=1)


def written(found: Tensor) -> Written:
    return [(int(token), logprob) for token, logprob in found.tolist()]


def going_rows(cursor: Cursor, chooser: Chooser, options: Sampling) -> Going:
    """The recorded way where it is known to be the faster one, else the plain one."""
    if cursor.key is None or options.max_new_tokens < RECORDED or len(cursor.logits) > MOST_ROWS:
        if cursor.shared and options.max_new_tokens > 1:
            cursor.cache = cursor.cache.copied()
        return Rows(cursor, chooser)
    from vlm.decode_rows import RecordedRows  # needs Triton

    return RecordedRows(cursor, chooser, options.max_new_tokens)


def steps(model: Writer, batch: Batch, options: Sampling, ends: Ends | None = None) -> Iterator[list[NewToken]]:
    """Each step's new tokens, one for each row that has not ended, until all have."""
    if not len(batch.tokens) or not options.max_new_tokens:
        return
    cursor = Cursor(model, batch, options.max_new_tokens, recording_key(model))
    try:
        chooser = Chooser(options, batch.tokens, batch.document >= 0, cursor.logits.shape[-1])
        cursor.expand(options.num_samples)
        writing = going_rows(cursor, chooser, options)
        try:
            yield from _news(writing, len(cursor.logits), options, ends)
        finally:
            writing.close()
    finally:
        cursor.close()


def _news(writing: Going, count: int, options: Sampling, ends: Ends | None) -> Iterator[list[NewToken]]:
    rows = list(range(count))
    texts: list[list[int]] = [[] for _ in rows]
    for left in reversed(range(options.max_new_tokens)):
        news = []
        for row, (token, logprob) in zip(rows, writing.read(), strict=True):
            if math.isnan(logprob):
                raise ValueError(f"the model's logits for row {row} are not finite")
            texts[row].append(token)
            news.append(NewToken(row, token, logprob, finish_of(texts[row], options, ends, left)))
        yield news
        going = [i for i, new in enumerate(news) if new.finish is None]
        if not going:
            return
        rows = [rows[i] for i in going]
        writing.advance(going)


def finish_of(text: list[int], options: Sampling, ends: Ends | None, left: int) -> Finish | None:
    """How, if at all, a row's new tokens end, with `left` more that it may write."""
    if text[-1] in options.stop_ids or (ends is not None and ends(text)):
        return "stop"
    return None if left else "length"


def collect(stream: Iterator[list[NewToken]], rows: int, stop_ids: Sequence[int]) -> Generated:
    """The tokens of `steps` by row."""
    out = Generated([[] for _ in range(rows)], [[] for _ in range(rows)], ["length"] * rows)
    for news in stream:
        for new in news:
            if new.finish is not None:
                out.finish[new.row] = new.finish
            if new.token not in stop_ids:
                out.tokens[new.row].append(new.token)
                out.logprobs[new.row].append(new.logprob)
    return out
