"""A sample's text, read once: all that the rules, the judges of unwanted text and the search for duplicates ask of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.quality.classifier import Classifier
from datasets.quality.near import minhash
from datasets.quality.rules import Counts
from datasets.quality.wordlist import WordList
from datasets.quality.words import Digest, ngrams, walk

SHINGLE = 3  # words


@dataclass(frozen=True, slots=True)
class Signals:
    """What the two judges of unwanted text say."""

    listed_share: float  # words that are in the word list, among all
    probability: float | None  # the classifier's; null without one


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one text."""

    counts: Counts
    signals: Signals
    digest: bytes  # of the whole text, normalised
    signature: NDArray[np.uint32]  # [128] MinHash of its shingles


def read(text: str, words: WordList, classifier: Classifier | None) -> Reading:
    """One pass over the text, chunk by chunk."""
    counts, digest = Counts(), Digest()
    signature = minhash(np.zeros(0, np.uint64))
    before = np.zeros(0, np.uint64)
    listed, total, features = 0, 0.0, 0
    for chunk in walk(text):
        counts.add(chunk)
        digest.add(chunk)
        listed += words.count(chunk.hashes)
        if classifier:
            part, number = classifier.total(chunk.hashes)
            total, features = total + part, features + number
        joined = np.concatenate([before, chunk.hashes])
        signature = minhash(ngrams(joined, SHINGLE), signature)
        before = joined[1 - SHINGLE :]
    probability = classifier.probability(total, features) if classifier else None
    return Reading(counts, Signals(listed / max(1, counts.words), probability), digest.value, signature)
