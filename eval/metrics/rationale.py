"""Rationales against a written one, as MM-CoT reports them (Zhang et al., 2023): BLEU-1, BLEU-4 and ROUGE-L, means over rows.

Both are written out here because each comes from a package with quirks that the reported figures carry. BLEU is of one
sentence, without smoothing, over tokens split at blanks and full stops. ROUGE-L is that of the package `rouge`: sentences end
at any ".", and the score counts the *distinct* words that lie on a longest common subsequence of any two sentences (the
package itself fails on long sentences). An empty side scores 0. The fourth figure of MM-CoT, an embedding's cosine, needs a
downloaded model and is left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

from eval.metrics.base import Variant

TINY = 2.2250738585072014e-308  # stands for no match of a higher order, in the original's logarithm
MOST_WORDS = 2000  # read of each side: a common subsequence takes the product of both lengths


def mmcot(prediction: str, references: Sequence[str], options: Mapping) -> dict[str, float]:
    """`{bleu1, bleu4, rougeL}` against the first reference."""
    found, target = _tokens(prediction), _tokens(references[0])
    if not found or not target:
        return {"bleu1": 0.0, "bleu4": 0.0, "rougeL": 0.0}
    return {"bleu1": bleu(found, target, 1), "bleu4": bleu(found, target, 4), "rougeL": rouge_l(references[0], prediction)}


def _tokens(text: str) -> list[str]:
    return [token for token in re.split(r"\s|\.", text) if token][:MOST_WORDS]


def bleu(found: Sequence[str], target: Sequence[str], order: int) -> float:
    """Sentence BLEU with uniform weights and one reference (Papineni et al., 2002); no smoothing."""
    logs = []
    for n in range(1, order + 1):
        have, want = _ngrams(found, n), _ngrams(target, n)
        matched = sum((have & want).values())
        if n == 1 and not matched:
            return 0.0
        logs.append(math.log(matched / max(1, sum(have.values()))) if matched else math.log(TINY))
    penalty = 1.0 if len(found) > len(target) else math.exp(1 - len(target) / len(found))
    return penalty * math.exp(sum(logs) / order)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def rouge_l(target: str, found: str) -> float:
    """F of the distinct words on common subsequences, over the distinct words of either side."""
    targets, founds = _sentences(target), _sentences(found)
    common = {word for f, t in product(founds, targets) for word in _common(f, t)}
    recall, precision = (len(common) / len({word for sentence in side for word in sentence}) for side in (founds, targets))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    words = text.split(" ")
    text = text if len(words) <= MOST_WORDS else " ".join(words[:MOST_WORDS])
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(x: Sequence[str], y: Sequence[str]) -> set[str]:
    """Words of one longest common subsequence; of equally long ones that which the package walks back to."""
    table = [[0] * (len(y) + 1)]
    for word in x:
        above, row = table[-1], [0]
        for j, other in enumerate(y):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        table.append(row)
    i, j, words = len(x), len(y), set()
    while i and j:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            words.add(x[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


VARIANTS = {"mmcot": Variant(mmcot)}
