"""VQA accuracy: an answer that three of the other people gave is right: min(1, matches / 3), the mean over leaving each out.

`official` reproduces GT-Vision-Lab/VQA (VQAv2, OK-VQA): nothing is normalised when all people wrote the same, so "Yes" does
not meet ten times "yes". `official_no_answer_id` is the same script on answers without an `answer_id`: leaving one out
leaves out all that equal it. `evalai` reproduces the EvalAI normalisation of lmms-eval and mmf (TextVQA, VizWiz, OK-VQA),
which always normalises and first removes ',' and '?' and parts "'s". `lmms_eval_vqav2` is `official` always normalised.
`aokvqa` (direct answers of A-OKVQA) compares texts as they are and leaves nobody out.

What looks wrong below is how the published scripts work: one comma between digits anywhere deletes all punctuation instead
of turning it into blanks; a period goes unless a digit follows, but only the first 32 of a text; contractions gain their
apostrophe; "Im" is looked up in lower-cased text and so never found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

from eval.metrics.base import Variant
from eval.metrics.vqa_contractions import CONTRACTIONS

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(n) for n, word in enumerate(NUMBERS)}}
WORDS = {**DIGITS, **dict.fromkeys(("a", "an", "the"), ""), **CONTRACTIONS}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
MARKS = re.compile(f"[{re.escape(PUNCTUATION)}]")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32
LONGEST_CACHED = 64  # characters


def official(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Accuracy in 0…1."""
    prediction, references = _flat(prediction), [_flat(text) for text in references]
    if len(set(references)) > 1:
        prediction, references = normalize(prediction), [normalize(text) for text in references]
    return _leave_one_out(references.count(prediction), len(references))


def official_no_answer_id(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Accuracy in 0…1."""
    prediction, references = _flat(prediction), [_flat(text) for text in references]
    if len(set(references)) > 1:
        prediction, references = normalize(prediction), [normalize(text) for text in references]
    matches = references.count(prediction)
    return min(1.0, matches / 3) * (len(references) - matches) / len(references)


def evalai(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Accuracy in 0…1."""
    return _leave_one_out([normalize_evalai(text) for text in references].count(normalize_evalai(prediction)), len(references))


def lmms_eval_vqav2(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Accuracy in 0…1."""
    matches = [normalize(_flat(text)) for text in references].count(normalize(_flat(prediction)))
    return _leave_one_out(matches, len(references))


def aokvqa(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Accuracy in 0…1."""
    return min(1.0, references.count(prediction) / 3)


@lru_cache(4096)
def _leave_one_out(matches: int, count: int) -> float:
    """Mean over leaving each of `count` answers out, when `matches` of them meet the prediction; rounded once."""
    left_out, others = (Fraction(min(1.0, max(0, n) / 3)) for n in (matches - 1, matches))
    return float((matches * left_out + (count - matches) * others) / count)


def normalize(text: str) -> str:
    """A text without line breaks as `official` compares it."""
    return _normalize_cached(text) if len(text) <= LONGEST_CACHED else _normalize(text)


def normalize_evalai(text: str) -> str:
    """A text as `evalai` compares it."""
    return _normalize_evalai_cached(text) if len(text) <= LONGEST_CACHED else _normalize_evalai(text)


def _normalize(text: str) -> str:
    """Punctuation, periods, digits, articles, contractions, in this order."""
    bare = text
    number = COMMA_IN_NUMBER.search(text) is not None
    for mark in set(MARKS.findall(text)):
        bare = bare.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    words = PERIOD.sub("", bare, count=MOST_PERIODS).lower().split()
    return " ".join(filter(None, (WORDS.get(word, word) for word in words)))


def _normalize_evalai(text: str) -> str:
    return _normalize(_flat(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()))


_normalize_cached = lru_cache(1 << 16)(_normalize)
_normalize_evalai_cached = lru_cache(1 << 16)(_normalize_evalai)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


VARIANTS = {
    "official": Variant(official),
    "evalai": Variant(evalai),
    "official_no_answer_id": Variant(official_no_answer_id),
    "lmms_eval_vqav2": Variant(lmms_eval_vqav2),
    "aokvqa": Variant(aokvqa),
}
