"""ANLS, average normalized Levenshtein similarity: 1 − edits / length, and 0 below one half; the best reference counts.

| variant | reproduces | normalised | length | exactly 0.5 | both empty |
|---|---|---|---|---|---|
| `rrc` | script of the Robust Reading Competition | stripped, lower case, single blanks | raw, upper case | 0.5 | 1 |
| `lmms_eval` | lmms-eval: the same | | | | |
| `pix2struct` | google-research/pix2struct | lower case | as normalised | 0 | undefined |
| `mmf` | mmf's ST-VQA | stripped, lower case | as normalised | 0.5 | undefined |

Undefined is where the scorer divides by zero: `None`, which is counted and has no part in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rapidfuzz.distance import Levenshtein

from eval.metrics.base import Variant

THRESHOLD = 0.5
LONGEST = 200_000  # characters of a text that is compared letter by letter (half a second); longer ones are no answers


def rrc(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Score in 0…1. Raises `ValueError` for texts beyond `LONGEST`."""
    length, words = len(prediction.upper()), " ".join(prediction.lower().split())
    nearest = min(_normalized(words, " ".join(text.lower().split()), max(length, len(text.upper()))) for text in references)
    return 1.0 - nearest if 1.0 - nearest >= THRESHOLD else 0.0


def pix2struct(prediction: str, references: Sequence[str], options: Mapping) -> float | None:
    """Score in 0…1, `None` when prediction and a reference are empty."""
    return _plain(prediction.lower(), [text.lower() for text in references], lambda distance: distance < THRESHOLD)


def mmf(prediction: str, references: Sequence[str], options: Mapping) -> float | None:
    """Score in 0…1, `None` when prediction and a reference are empty."""
    cleaned = [text.strip().lower() for text in references]
    return _plain(prediction.strip().lower(), cleaned, lambda distance: 1.0 - distance >= THRESHOLD)


def _plain(prediction: str, references: list[str], near: Callable[[float], bool]) -> float | None:
    if not prediction and "" in references:
        return None
    nearest = min(_normalized(prediction, text, max(len(prediction), len(text))) for text in references)
    return 1.0 - nearest if near(nearest) else 0.0


def similarity(prediction: str, reference: str) -> float:
    """What PyPI's package `anls` (in ChartQAPro's scorer) gives: as `rrc`, but exactly 0.5 is 0 and the length is of the texts
    with single blanks."""
    a, b = (" ".join(text.lower().split()) for text in (prediction, reference))
    distance = _normalized(a, b, max(len(a.upper()), len(b.upper())))
    return 1.0 - distance if distance < THRESHOLD else 0.0


def _normalized(a: str, b: str, length: int) -> float:
    """Edits from a to b over `length`; 1 where they are over one half, so that a long text that is far off costs nothing."""
    if not length:
        return 0.0
    most = length // 2
    if abs(len(a) - len(b)) > most:
        return 1.0
    if max(len(a), len(b)) > LONGEST and a != b:
        raise ValueError(f"texts of {len(a):,} and {len(b):,} characters are too long to compare, the limit is {LONGEST:,}")
    edits = Levenshtein.distance(a, b, score_cutoff=most)
    return edits / length if edits <= most else 1.0


VARIANTS = {"rrc": Variant(rrc), "pix2struct": Variant(pix2struct), "lmms_eval": Variant(rrc), "mmf": Variant(mmf)}
