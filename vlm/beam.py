"""Beam search: the K likeliest beginnings of each prompt's continuation are carried on together.

A text's score is its log-probability / length**length_penalty, the stop token counted in both: the convention of transformers,
not the ((5 + length) / 6)^α of Wu et al. (2016). A prompt's search ends when no beam can still overtake the K best texts found
(transformers' `early_stopping="never"`): with beams as many as there are beginnings, it is an exhaustive search.

B prompts, K beams, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm.batch import Batch
from vlm.generate import Cursor, Ends, Finish, Generated, finish_of
from vlm.sampling import Sampling, penalize, seen_tokens

if TYPE_CHECKING:
    from vlm.writer import Writer


@dataclass(frozen=True, slots=True)
class Beam:
    """A beginning: new tokens, the model's log-probability of each, and what they are ranked by (the sum, with any penalty)."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0

    def score(self, length_penalty: float, length: int | None = None) -> float:
        """Its score, or the one it would have at another length."""
        return self.total / max(1, length or len(self.tokens)) ** length_penalty


@dataclass
class Search:
    """One prompt's search. `beams` are the rows it has in the cursor, K of them once the first step is done (or fewer, where
    there are not as many beginnings)."""

    prompt: int
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    found: list[tuple[float, Beam, Finish]] = field(default_factory=list)  # the K best texts, best first

    def advance(self, candidates: list[tuple[int, Beam]], options: Sampling, ends: Ends | None, left: int) -> list[int]:
        """Go on with the best of `candidates` (row, beam), best first; returns the rows that the new beams continue.

        A candidate that ends is a text only among the first K, as its beginning would not have been carried on otherwise.
        """
        rows: list[int] = []
        self.beams = []
        for rank, (row, beam) in enumerate(candidates):
            finish = finish_of(list(beam.tokens), options, ends, left)
            if finish is not None and rank < options.num_beams:
                self.found.append((beam.score(options.length_penalty), beam, finish))
            elif finish is None and len(rows) < options.num_beams:
                rows.append(row)
                self.beams.append(beam)
        self.found = sorted(self.found, key=lambda found: -found[0])[: options.num_beams]
        if len(self.found) == options.num_beams and self._best_possible(options) <= self.found[-1][0]:
            self.beams = []
        return rows[: len(self.beams)]

    def _best_possible(self, options: Sampling) -> float:
        """No text that the beams may still become has a higher score: totals only fall."""
        longest = options.max_new_tokens if options.length_penalty > 0 else None
        return max((beam.score(options.length_penalty, longest) for beam in self.beams), default=float("-inf"))


def beam_search(model: Writer, batch: Batch, options: Sampling, ends: Ends | None = None) -> Generated:
    """The `num_samples` best texts of each prompt, best first. Raises `ValueError` when so many do not exist."""
    searches = [Search(prompt) for prompt in range(len(batch.tokens))]
    if not options.max_new_tokens:
        searches = [Search(search.prompt, found=[(0.0, Beam(), "length")]) for search in searches]
    elif searches:
        _run(model, batch, searches, options, ends)
    return _best(searches, options)


def _run(model: Writer, batch: Batch, searches: list[Search], options: Sampling, ends: Ends | None) -> None:
    cursor = Cursor(model, batch, options.max_new_tokens)
    seen = seen_tokens(batch.tokens, batch.document >= 0, cursor.logits.shape[-1])
    open_searches = searches
    for left in reversed(range(options.max_new_tokens)):
        index: list[int] = []
        candidates = _candidates(cursor.logits, open_searches, seen, options, ends)
        for search, here in zip(open_searches, candidates, strict=True):
            index += search.advance(here, options, ends, left)
        open_searches = [search for search in open_searches if search.beams]
        if not open_searches:
            return
        rows = torch.tensor(index, device=seen.device)
        tokens = torch.tensor([beam.tokens[-1] for search in open_searches for beam in search.beams], device=seen.device)
        cursor.take(rows)
        seen = seen[rows].scatter_(1, tokens[:, None], True)
        cursor.feed(tokens)


def _candidates(
    logits: Tensor, searches: list[Search], seen: Tensor, options: Sampling, ends: Ends | None
) -> list[list[tuple[int, Beam]]]:
    """For each search its likeliest (row, beam grown by a token), best first: so many that K of them go on, where there are."""
    logprobs = logits.log_softmax(dim=-1)
    ranked = logprobs if options.repetition_penalty == 1 else penalize(logprobs, seen, options.repetition_penalty)
    totals = ranked + ranked.new_tensor([beam.total for search in searches for beam in search.beams])[:, None]
    out, start = [], 0
    for search in searches:
        stop = start + len(search.beams)
        wanted = 2 * options.num_beams
        while True:
            found = _likeliest(search, totals[start:stop], logprobs[start:stop], wanted)
            going = sum(finish_of(list(beam.tokens), options, ends, 1) is None for _, beam in found)
            if going >= options.num_beams or len(found) < wanted:
                break
            wanted *= 2
        out.append([(start + row, beam) for row, beam in found])
        start = stop
    return out


def _likeliest(search: Search, totals: Tensor, logprobs: Tensor, wanted: int) -> list[tuple[int, Beam]]:
    """The best of a search's beams [k, V] grown by a token, each with the number of the beam it grew from."""
    best, index = totals.flatten().topk(min(wanted, totals.numel()))
    if best.isnan().any():
        raise ValueError(f"the model's logits for prompt {search.prompt} are not finite")
    rows, tokens = index // totals.shape[1], index % totals.shape[1]
    chosen = zip(rows.tolist(), tokens.tolist(), best.tolist(), logprobs[rows, tokens].tolist(), strict=True)
    return [(row, _grown(search.beams[row], token, total, logprob)) for row, token, total, logprob in chosen]


def _grown(beam: Beam, token: int, total: float, logprob: float) -> Beam:
    return Beam((*beam.tokens, token), (*beam.logprobs, logprob), total)


def _best(searches: list[Search], options: Sampling) -> Generated:
    out, scores = Generated([], [], []), []
    for search in searches:
        found = search.found
        if len(found) < options.num_samples:
            raise ValueError(f"num_samples {options.num_samples}: row {search.prompt} has only {len(found)} different texts")
        for score, beam, finish in found[: options.num_samples]:
            kept = len(beam.tokens) - (beam.tokens[-1:] != () and beam.tokens[-1] in options.stop_ids)
            out.tokens.append(list(beam.tokens[:kept]))
            out.logprobs.append(list(beam.logprobs[:kept]))
            out.finish.append(finish)
            scores.append(score)
    return dataclasses.replace(out, scores=scores)
