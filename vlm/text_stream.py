"""Generation as text: characters that span tokens, stop strings that span tokens, prompts in and texts out.

The model writes ids (`vlm.generate`); shown of them is only what later tokens cannot change: a character whose bytes are not
all there is held back, and so is an end of the text that may still become a stop string.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from vlm.batch import Batch
from vlm.generate import Ends, Finish
from vlm.processor import Processor
from vlm.sample import Sample

if TYPE_CHECKING:
    from vlm.decoder import TextDecoder
    from vlm.model import VLM

PARTIAL = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the model wrote after one prompt: `text` without special tokens, cut before a stop string; `tokens` as generated."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: Finish
    score: float | None = None  # of a beam search


class TextStream:
    """Ids in, text out as soon as it is certain; `stopped` once a stop string was completed.

    All that `push` returned and then `finish` is the decoded text, up to the stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, checked(stop)
        self.tokens: list[int] = []
        self.before, self.read = 0, 0  # tokens[before:read] are text already, and decoded again as context for those behind
        self.held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain, often ""."""
        self.tokens.append(token)
        fresh = self._decoded(self.before, len(self.tokens))[len(self._decoded(self.before, self.read)) :]
        if not fresh or fresh.endswith(PARTIAL):
            return ""
        self.before, self.read = self.read, len(self.tokens)
        return self._release(fresh, last=False)

    def finish(self) -> str:
        """The text held back until now: no more tokens come."""
        fresh = self._decoded(self.before, len(self.tokens))[len(self._decoded(self.before, self.read)) :]
        self.before = self.read = len(self.tokens)
        return self._release(fresh, last=True)

    def _decoded(self, start: int, end: int) -> str:
        return self.tokenizer.decode(self.tokens[start:end], skip_special_tokens=True)

    def _release(self, fresh: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self.held + fresh
        end = stop_at(text, self.stop)
        self.stopped = end is not None
        if end is None:
            end = len(text) if last else len(text) - _may_become(text, self.stop)
        self.held = "" if self.stopped else text[end:]
        return text[:end]


def checked(stop: Sequence[str]) -> tuple[str, ...]:
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop {stop!r} is not a list of strings that are not empty")
    return tuple(stop)


def stop_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is the first to be complete, whatever the tokens that wrote it; of two, the longer."""
    found = [(text.find(s) + len(s), -len(s)) for s in stop if s in text]
    return sum(min(found)) if found else None


def _may_become(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a stop string begins."""
    ends = (n for s in stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n]))
    return max(ends, default=0)


def ends_with(tokenizer: Tokenizer, stop: Sequence[str]) -> Ends | None:
    """Does a text hold a stop string? For `VLM.generate`, asked after each token: it decodes all of them each time, since with
    byte tokens no end of a text can be decoded alone."""
    stop = checked(stop)
    if not stop:
        return None
    return lambda tokens: stop_at(tokenizer.decode(tokens, skip_special_tokens=True), stop) is not None


def generate_text(
    model: VLM | TextDecoder,
    processor: Processor,
    samples: Sequence[Sample] | Batch,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> list[Continuation]:
    """Continue each sample, or row of a batch; one `Continuation` a row of `VLM.generate`, whose `options` these are
    (`stop_ids`: the end token).

    Writing ends where the text would hold one of the strings `stop`, however it falls into tokens.
    """
    batch = (samples if isinstance(samples, Batch) else processor(samples)).to(next(model.parameters()).device)
    options = {"stop_ids": (processor.eos_id,), **options}
    out = model.generate(batch, ends=ends_with(processor.tokenizer, stop), **options)
    scores: Sequence[float | None] = out.scores or [None] * len(out.tokens)
    texts = [processor.decode(tokens) for tokens in out.tokens]
    texts = [text[: stop_at(text, stop)] for text in texts]
    return [Continuation(*row) for row in zip(texts, out.tokens, out.logprobs, out.finish, scores, strict=True)]


def stream_text(
    model: VLM | TextDecoder, processor: Processor, sample: Sample, *, stop: Sequence[str] = (), **options: Any
) -> Iterator[str]:
    """`generate_text` of one sample, piece by piece."""
    text = TextStream(processor.tokenizer, stop)
    batch = processor([sample]).to(next(model.parameters()).device)
    for token, _ in model.stream(batch, **{"stop_ids": (processor.eos_id,), **options}):
        if piece := text.push(token):
            yield piece
        if text.stopped:
            return
    if piece := text.finish():
        yield piece
