"""From what a model wrote to an answer, in one place. A parser never guesses: `None` means that there is no answer.

Multiple choice is parsed by its metric (`multiple_choice:VARIANT`), whose official scorers disagree on how: there the whole
text goes on to the metric (`text`, or `raw` where even an empty output counts). `canonical` says when two answers are the
same vote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal

from eval import metrics
from eval.cli import nearest
from eval.tasks import Item

Parser = Callable[[str], str | None]
Vote = Callable[[Item, str], str | None]  # an answer → what it is a vote for
MAX_READ = 20_000  # characters of an output that are looked at: an answer is not further in
_NUMBER = re.compile(r"[-+−]?[$€£]?\d[\d,]{0,40}(?:\.\d{1,40})?%?")
_FINAL = re.compile(r"(?:\banswer\s*(?:is|:)|^\W{0,8}answer\b\W{0,8})[ \t*]*", re.IGNORECASE | re.MULTILINE)


def raw(output: str) -> str:
    """All of it but blanks at its ends, "" too: for official scorers that count every output."""
    return output.strip()


def line(output: str) -> str | None:
    """The first line that is not empty, without blanks at its ends."""
    return output[:MAX_READ].strip().split("\n")[0].strip() or None


def text(output: str) -> str | None:
    """The same where there is something: captions, and what a metric parses itself."""
    return raw(output) or None


def final(output: str) -> str | None:
    """What follows the last `answer is` or `Answer:` on its line, without a full stop; the first line where there is none."""
    found = list(_FINAL.finditer(output[:MAX_READ]))
    rest = output[found[-1].end() : MAX_READ].split("\n")[0] if found else output
    return (line(rest) or "").strip(" *").removesuffix(".").strip(" *") or None


def number(output: str) -> str | None:
    """The last number of the first line, without thousands' commas and currency; a `%` stays."""
    found = _NUMBER.findall(line(output) or "")
    return re.sub(r"[,$€£]", "", found[-1]).replace("−", "-") if found else None


PARSERS: dict[str, Parser] = {"line": line, "raw": raw, "text": text, "final": final, "number": number}


def get(name: str) -> Parser:
    """Parser by name. Raises `ValueError` naming the nearest valid one."""
    if name not in PARSERS:
        raise nearest("parser", name, PARSERS)
    return PARSERS[name]


def ballot(item: Item, answer: str) -> str | None:
    return canonical(answer)


def vote_of(metric: str) -> Vote:
    """For a metric (label) that parses, what it parses: `B.` and `(B)` are one vote; else `canonical`."""
    scorer = metrics.get(metric)
    if not scorer.parses:
        return ballot

    def parsed(item: Item, answer: str) -> str | None:
        score = scorer.score(answer, item.references, {**item.options, "choices": item.choices})
        return None if score is None else str(score)

    return parsed


def canonical(answer: str) -> str:
    """Equal forms are one vote: case, width, blanks and a last full stop aside, 1,000 is 1000.0, but not 1000%."""
    plain = " ".join(unicodedata.normalize("NFKC", answer).lower().split()).removesuffix(".")
    if not _NUMBER.fullmatch(plain):
        return plain
    bare, percent = re.sub(r"[,$€£%]", "", plain).replace("−", "-"), "%" * plain.endswith("%")
    value = Decimal(bare)
    return f"{value.normalize() if value else Decimal(0):f}{percent}"
