"""Exact match with any reference.

`ignore_case` (default) also ignores blanks at both ends; `strict` ignores nothing; `lmms_eval` (GQA there) ignores case and
ASCII punctuation but no blank; `squad` compares texts normalised as `token_f1` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.metrics.base import Variant
from eval.metrics.token_f1 import NO_PUNCTUATION, normalize


def ignore_case(prediction: str, references: Sequence[str], options: Mapping) -> float:
    return float(prediction.strip().lower() in {reference.strip().lower() for reference in references})


def strict(prediction: str, references: Sequence[str], options: Mapping) -> float:
    return float(prediction in references)


def lmms_eval(prediction: str, references: Sequence[str], options: Mapping) -> float:
    bare = prediction.lower().translate(NO_PUNCTUATION)
    return float(any(bare == reference.lower().translate(NO_PUNCTUATION) for reference in references))


def squad(prediction: str, references: Sequence[str], options: Mapping) -> float:
    bare = normalize(prediction)
    return float(any(bare == normalize(reference) for reference in references))


VARIANTS = {
    "ignore_case": Variant(ignore_case),
    "strict": Variant(strict),
    "lmms_eval": Variant(lmms_eval),
    "squad": Variant(squad),
}
