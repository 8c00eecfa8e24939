"""The examples of few-shot prompts: drawn at random, or those that look most like the question's picture (RICES).

Examples come from a pool: `pool_size` items of the support split, drawn by the seed, without those that are in the evaluation
(`eval.fewshot_leaks`). Which of them an item gets depends on the seed, the item and the pool, on nothing else, and the first k
are the same for any larger k.

`random` draws for each item anew. `rices` (Yang et al., 2022; Alayrac et al., 2022) takes the most similar by the cosine of
pooled features of an encoder, the most similar last, next to the question. An item without pictures is compared by its words
(cosine of their counts, weighted by how rare they are in the pool), with examples without pictures where there are any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from datasets.quality.words import words
from eval.fewshot_features import Features
from eval.fewshot_leaks import Leaks
from eval.hashing import item_hash
from eval.tasks import Item, digest

Kind = Literal["random", "rices"]
KINDS = get_args(Kind)
POOL = 2048  # examples to choose from, as Flamingo's support sets
MAX_SHOTS = 64
NO_ANSWER = "without an answer"


@dataclasses.dataclass(frozen=True)
class Pool:
    """Items to choose examples from. `dropped`: reason → how many could not be shown."""

    items: tuple[Item, ...]
    dropped: Mapping[str, int]

    @cached_property
    def digest(self) -> str:
        """Of all that a prompt shows of an example: words, answers, rationale and the pictures' bytes."""
        return digest(*(part for item in self.items for part in (item.id, item_hash(item), item.rationale)))


def draw_pool(support: Sequence[Item], evaluated: Sequence[Item], size: int | None = POOL, seed: int = 0) -> Pool:
    """`size` items of `support` (`None`: all), without those that would give an evaluated item away.

    Those whose answer is not public cannot be shown either. Raises `ValueError` when none is left.
    """
    order = (
        _generator(seed, "pool").permutation(len(support)) if size is not None and size < len(support) else range(len(support))
    )
    leaks, kept, dropped = Leaks(evaluated), [], dict[str, int]()
    for place in order:
        if size is not None and len(kept) == size:
            break
        reason = leaks.reason(support[place]) if support[place].references else NO_ANSWER
        if reason is None:
            kept.append(support[place])
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    if not kept:
        found = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it is empty"
        raise ValueError(f"the support split has no example that can be shown: {found}")
    return Pool(tuple(kept), dropped)


class RandomSupport:
    """`shots` examples of the pool, drawn anew for each item."""

    kind: Kind = "random"

    def __init__(self, pool: Pool, shots: int, seed: int = 0) -> None:
        self.pool, self.shots, self.seed = pool, checked_shots(shots, pool), seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """For the records: everything that the choice depends on."""
        return {"shots": self.shots, "support": self.kind, "support_seed": self.seed, "support_pool": self.pool.digest}

    def examples(self, item: Item) -> list[Item]:
        order = _generator(self.seed, item.id).permutation(len(self.pool.items))
        return [self.pool.items[place] for place in order[: self.shots]]


class Rices(RandomSupport):
    """`shots` examples of the pool that are most similar, the most similar last."""

    kind: Kind = "rices"

    def __init__(self, pool: Pool, shots: int, features: Features, seed: int = 0) -> None:
        super().__init__(pool, shots, seed)
        self.features = features
        self.texts = Words([item.question for item in pool.items])
        self.with_pictures = np.array([bool(item.images) for item in pool.items])

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**super().settings, "support_encoder": self.features.fingerprint}

    def examples(self, item: Item) -> list[Item]:
        seen = bool(item.images) and self.with_pictures.any()
        likeness = self._pictures @ self.features.pooled(item) if seen else self.texts.likeness(item.question)
        if (wanted := self.with_pictures == bool(item.images)).any():
            likeness = np.where(wanted, likeness, likeness - 4)  # the others only where these do not suffice
        order = np.argsort(-likeness, kind="stable")[: self.shots]
        return [self.pool.items[place] for place in reversed(order)]

    @cached_property
    def _pictures(self) -> NDArray[np.float32]:
        """[pool, D]; zeros for an example without pictures."""
        self.features.prepare(self.pool.items)
        rows = {place: self.features.pooled(item) for place, item in enumerate(self.pool.items) if item.images}
        nothing = np.zeros_like(next(iter(rows.values())))
        return np.stack([rows.get(place, nothing) for place in range(len(self.pool.items))])


class TextOnly:
    """Some examples without their pictures: Flamingo's prompt with no shots."""

    def __init__(self, support: RandomSupport) -> None:
        self.support = support

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.support.settings, "shots": 0, "text_only_examples": self.support.shots}

    def examples(self, item: Item) -> list[Item]:
        return [dataclasses.replace(example, images=()) for example in self.support.examples(item)]


class Words:
    """Texts as counts of words, weighted by rarity (idf) and of length 1."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [words(text) for text in texts]
        self.columns = {word: column for column, word in enumerate(dict.fromkeys(w for ws in split for w in ws))}
        counts = self._counts(split)
        self.rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0).A1)) + 1
        self.rows = self._weighted(counts)

    def likeness(self, text: str) -> NDArray[np.float64]:
        """Cosine with each text, [texts]."""
        return (self.rows @ self._weighted(self._counts([words(text)])).T).toarray()[:, 0]

    def _counts(self, split: Sequence[Sequence[str]]) -> scipy.sparse.csr_matrix:
        places = [(row, self.columns[word]) for row, ws in enumerate(split) for word in ws if word in self.columns]
        rows, columns = zip(*places, strict=True) if places else ((), ())
        shape = (len(split), max(1, len(self.columns)))
        return scipy.sparse.csr_matrix((np.ones(len(places)), (rows, columns)), shape=shape)

    def _weighted(self, counts: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
        weighted = counts.multiply(self.rarity).tocsr() if len(self.columns) else counts
        norms = np.sqrt(weighted.multiply(weighted).sum(axis=1).A1)
        return scipy.sparse.diags(1 / np.where(norms > 0, norms, 1)) @ weighted


def checked_shots(shots: int, pool: Pool) -> int:
    """Raises `ValueError` for a number of shots that the pool has not."""
    if not 0 <= shots <= MAX_SHOTS:
        raise ValueError(f"--shots {shots}: want 0 to {MAX_SHOTS}")
    if shots > len(pool.items):
        raise ValueError(f"--shots {shots}: the support split has {len(pool.items)} examples that are not evaluated")
    return shots


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int(digest(name), 16)])
