"""Token F1 of SQuAD: words shared by answer and reference, once both are in lower case and lose punctuation and articles; the
best reference counts.

`squad` is the script of version 1.1: an answer or reference without words scores 0. `squad2` is that of version 2.0: two
without words meet. `exact_match:squad` compares the same normalised texts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from eval.metrics.base import Variant

ARTICLE = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, single blanks."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def squad(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """F1 in 0…1."""
    words = normalize(prediction).split()
    return max(_f1(words, normalize(reference).split()) for reference in references)


def squad2(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """F1 in 0…1."""
    words = normalize(prediction).split()
    wanted = [normalize(reference).split() for reference in references]
    return max(_f1(words, gold) if words and gold else float(words == gold) for gold in wanted)


def _f1(words: list[str], gold: list[str]) -> float:
    shared = (Counter(words) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


VARIANTS = {"squad": Variant(squad), "squad2": Variant(squad2)}
