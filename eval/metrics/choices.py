"""The choices of a question, and when a parsed answer is the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.metrics.base import LETTERS, brief, references


def choices_of(options: Mapping) -> dict[str, str]:
    """`options["choices"]` as letter → text; empty when there are none. Raises `ValueError` for anything else."""
    given = options.get("choices") or ()
    if isinstance(given, Mapping):
        pairs = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) <= len(LETTERS):
        pairs = dict(zip(LETTERS, given, strict=False))
    else:
        raise ValueError(f"`choices` is a list of at most 26 texts or a mapping letter → text, not {brief(given)}")
    if not all(isinstance(key, str) and key and isinstance(text, str) for key, text in pairs.items()):
        raise ValueError(f"`choices` holds strings only, not {brief(given)}")
    return pairs


def correct(score: str | float | None, options: Mapping) -> bool:
    """Whether a parsed answer is gold. Gold may be the letter or the text of a choice; a number is already the verdict."""
    if score is None or isinstance(score, int | float):
        return bool(score)
    choices, gold = choices_of(options), set(references(options))
    if score in gold:
        return True
    if score in choices:
        return choices[score] in gold and not gold & set(choices)
    return any(choices.get(letter) == score for letter in gold)
