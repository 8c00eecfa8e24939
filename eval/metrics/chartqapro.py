"""ChartQAPro's relaxed accuracy, as lmms-eval ports it: answers may be lists, years and choices are compared exactly.

Options of a row: `year_flags`, "YES" or "NO" for each item of the answer (one alone stands for all), and `question_type`
("Fact Checking" and "Multi Choice" are compared exactly). A row's score is the mean over the items of the longer list; an
item without a partner scores 0. Numbers may be off by 5 % once '%' is removed (12 % is 12); text scores its ANLS, where
exactly one half is 0.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from eval.metrics import anls

TOLERANCE = 0.05
EXACT_TYPES = ("Fact Checking", "Multi Choice")
LONGEST_LIST = 10_000  # characters; Python's reader of literals is recursive
BARE_WORD = re.compile(r"(?<!['\w])(\w[^,]*?)(?!['\w])")


def score(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """The best over references, in 0…1. Raises `ValueError` for `year_flags` that are not strings."""
    prediction = _bare(prediction)
    flags = _flags(options)
    exact = options.get("question_type") in EXACT_TYPES
    return max(_score_items(prediction, _bare(reference), flags, exact) for reference in references)


def _bare(text: str) -> str:
    return text.strip().strip(".").strip("\n")


def _flags(options: Mapping) -> list[str]:
    flags = options.get("year_flags") or []
    flags = [flags] if isinstance(flags, str) else flags
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError(f"`year_flags` is a list of 'YES' and 'NO', not {repr(flags)[:120]}")
    return flags


def _score_items(prediction: str, target: str, flags: list[str], exact: bool) -> float:
    wanted = _items(_quoted(target)) or [target]
    found = _items(prediction) or [prediction]
    flags = flags * len(wanted) if len(flags) < len(wanted) else flags
    scores = [
        _score_item(p, t, exact or (i < len(flags) and flags[i].upper() == "YES"))
        for i, (p, t) in enumerate(zip_longest(found, wanted))
    ]
    return sum(scores) / len(scores)


def _score_item(prediction: str | None, target: str | None, exact: bool) -> float:
    if prediction is None or target is None:
        return 0.0
    if exact:
        return float(prediction.strip().lower() == target.strip().lower())
    p, t = (text.strip().strip("%").strip() for text in (prediction, target))
    try:
        p_number, t_number = float(p), float(t)
    except ValueError:
        return anls.similarity(p.lower(), t.lower())
    if t_number == 0:
        return float(p_number == 0)
    return float(abs(p_number - t_number) / abs(t_number) <= TOLERANCE)


def _items(text: str) -> list[str] | None:
    """The items of a list's literal as strings (an inner list is one item); `None` for any other text."""
    found = _literal(text)
    return [str(item).strip(" '") for item in found] if isinstance(found, list) else None


def _quoted(target: str) -> str:
    """A gold list whose words have no quotes, `[a, b]`, with quotes, where that makes it a literal."""
    inner = re.match(r"^\[(.*)\]$", target.strip())
    if not inner or len(target) > LONGEST_LIST:
        return target
    words = BARE_WORD.sub(r"'\1'", inner.group(1))
    found = _literal(f"[{words}]")
    return target if found is None else str(found)


def _literal(text: str) -> object:
    """A Python literal's value, `None` where it is none (nothing is run)."""
    if len(text) > LONGEST_LIST or "[" not in text:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of the literal's own escapes
            found = ast.literal_eval(text)
        str(found)  # an integer may be too long for it
        return found
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
