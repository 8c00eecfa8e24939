"""Which choice a free-text output names: the parsers of published scorers, quirks included.

Each `METRIC:VARIANT` here is a function (prediction, references, options) → the parsed answer, or `None` where the official
code fails or falls back to a random choice: nothing is guessed here. `options["choices"]` is a list of texts (A, B, C, …) or
a mapping letter → text. Two exceptions give a score of 0 or 1, as their official code does: `lmms_scienceqa`, which looks
for the gold letter and nothing else, and `mmmu` on an open question (no choices).

Our own parser, which reads more and still refuses what is ambiguous, is `choice_robust`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from rapidfuzz.distance import Levenshtein

from eval.metrics import choice_robust, mmmu_open
from eval.metrics.base import Variant
from eval.metrics.choices import choices_of, correct
from eval.metrics.scienceqa import ByColumn

Parsed = str | float | None
MMCOT = re.compile(r"The answer is \(([A-Z])\)")
SCIENCEQA_GPT3 = re.compile(r"The answer is ([A-Z]).")  # needs one more character after the letter: quirk of the original
MATHVISTA_LETTER = re.compile(r"\(([a-zA-Z])\)")
MATHVISTA_QUICK = re.compile(r'The answer is "(.*)"\.')


def mmmu(prediction: str, references: Sequence[str] | None, options: Mapping) -> Parsed:
    """MMMU `parse_multi_choice_response`: "(A)", else " A ", else (over 5 words) a choice's text; of several the last."""
    choices = choices_of(options)
    if not choices or options.get("question_type") == "open":
        return mmmu_open.score(prediction, references, options)
    for mark in ",.!?;:'":  # one kind after the other, as the original: "A.," → "A", but "A,." → "A,"
        prediction = prediction.strip(mark)
    text = f" {prediction} "
    for form in ("({})", " {} "):
        found = [letter for letter in choices if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(form.format(letter)))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    found = [letter for letter, answer in choices.items() if answer.lower() in lower]
    return max(found, key=lambda letter: lower.rfind(choices[letter].lower()), default=None)


def mmcot(prediction: str, references: Sequence[str] | None, options: Mapping) -> str | None:
    """MM-CoT `extract_ans`: exactly one "The answer is (X)"."""
    return _only(MMCOT.findall(prediction))


def scienceqa_gpt3(prediction: str, references: Sequence[str] | None, options: Mapping) -> str | None:
    """ScienceQA `run_gpt3.py`: exactly one "The answer is X" followed by any character."""
    return _only(SCIENCEQA_GPT3.findall(prediction))


def _only(found: list[str]) -> str | None:
    return found[0] if len(found) == 1 else None


def lmms_scienceqa(prediction: str, references: Sequence[str] | None, options: Mapping) -> float:
    """lmms-eval ScienceQA: 1.0 for the gold letter in either case, or for an output that begins "X." with X upper-case."""
    gold = {text.strip().lower() for text in _gold(references, "lmms_scienceqa")}
    answer = prediction.strip()
    if answer.lower() in gold:
        return 1.0
    return float(answer[:1].isupper() and answer[1:2] == "." and answer[0].lower() in gold)


def _gold(references: Sequence[str] | None, variant: str) -> Sequence[str]:
    if not references:
        raise ValueError(f"multiple_choice:{variant} compares with the gold letter: a row needs `references`")
    return references


def mathvista(prediction: str, references: Sequence[str] | None, options: Mapping) -> str | None:
    """MathVista `normalize_extracted_answer`, by `question_type`, `answer_type` and `precision` of the row."""
    if options.get("question_type") == "multi_choice":
        return _mathvista_choice(prediction, list(choices_of(options).values()))
    kind = options.get("answer_type", "text")
    if kind == "integer":
        return _number_text(prediction, int)
    if kind == "float":
        precision = _precision(options.get("precision"))
        return _number_text(prediction, lambda number: round(number, precision))
    return prediction


def _mathvista_choice(extraction: str, texts: list[str]) -> str:
    """The text of the first bracketed letter, of a bare upper-case letter, or else of the nearest choice (first of equals)."""
    if not texts:
        raise ValueError("multiple_choice:mathvista needs `choices` where `question_type` is multi_choice")
    extraction = extraction.strip()
    letters = MATHVISTA_LETTER.findall(extraction)
    extraction = letters[0].upper() if letters else extraction
    named = dict(zip(ascii_uppercase, texts, strict=False))
    if extraction in named:
        return named[extraction]
    return min(texts, key=lambda text: Levenshtein.distance(extraction, text))


def _precision(given: object) -> int | None:
    """Decimals; `None` rounds to an integer, as the official `round` does."""
    if given is None:
        return None
    if not isinstance(given, (int, float)) or given != given or abs(given) > 100:
        raise ValueError(f"`precision` is a number of decimals, not {given!r}")
    return int(given)


def _number_text(text: str, rounded: Callable[[float], float]) -> str | None:
    try:
        return str(rounded(float(text)))
    except (ValueError, OverflowError):  # no number, or infinite
        return None


def mathvista_quick(prediction: str, references: Sequence[str] | None, options: Mapping) -> str | None:
    """`mathvista` after the extraction rules that the official script tries before it asks a language model; `None`
    where it would ask one."""
    extracted = _mathvista_extract(prediction, options)
    return None if extracted is None else mathvista(extracted, references, options)


def _mathvista_extract(response: str, options: Mapping) -> str | None:
    kind = options.get("answer_type")
    if not response or (options.get("question_type") == "multi_choice" and response in choices_of(options).values()):
        return response
    if kind in ("integer", "float"):
        try:
            return str(int(response) if kind == "integer" else float(response))
        except ValueError:
            pass
    quoted = MATHVISTA_QUICK.search(response)
    return quoted.group(1) if quoted else None


def _texts(options: Mapping) -> list[str]:
    return list(choices_of(options).values())


def _always_five(options: Mapping) -> str:
    return "ABCDE"  # what MM-CoT draws from, whatever the question's choices


VARIANTS = {
    "mmmu": Variant(mmmu, parses=True, correct=correct, tally=ByColumn),
    "mmcot": Variant(mmcot, parses=True, correct=correct, guesses=_always_five, tally=ByColumn),
    "scienceqa_gpt3": Variant(scienceqa_gpt3, parses=True, correct=correct, tally=ByColumn),
    "lmms_scienceqa": Variant(lmms_scienceqa, tally=ByColumn),
    "mathvista": Variant(mathvista, parses=True, correct=correct, guesses=_texts),
    "mathvista_quick": Variant(mathvista_quick, parses=True, correct=correct, guesses=_texts),
    "robust": Variant(choice_robust.parse, parses=True, correct=correct, tally=ByColumn),
}
