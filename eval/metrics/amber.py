"""AMBER (Wang et al., 2023): yes/no questions (discriminative) and descriptions (generative), as its script reports them.

Discriminative: the answer must be exactly "Yes" or "No" (`None` else), and the *positive* class is "No": precision and recall
are of hallucinations refused. Every count in a denominator is 0.001 too large, figures are rounded to 0.1 %, and F1 is made
of the rounded ones; all of that is kept. `references` is "yes" or "no", `type` AMBER's ("discriminative-hallucination" is
existence, "discriminative-attribute-state", "-number", "-action"; any other is relation).

Generative: the official code finds nouns with a tagger and matches these with a spaCy model (similarity above 0.8) that is
part of no package registry. `generative_exact` is *not* that figure: words of the description (their WordNet-like singular,
case kept, no tagger) match the annotated ones exactly. Row options: `truth` and `hallu` (lists of words, or a mapping word →
associated words), `vocabulary` (all words that count; default: those of the row), `safe_words` (never hallucinated).
`exact` takes both kinds in one file (a generative row has `type` "generative") and adds the AMBER score,
(100 − CHAIR + F1) / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval import stats
from eval.metrics.base import Figures, Metric, Row, Variant, brief, references, whole
from eval.metrics.coco_words import NOUN_RULES, tokens

KINDS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
ATTRIBUTE = ("state", "number", "action")
EXTRA = 0.001  # in every denominator


def discriminative(prediction: str, references: Sequence[str], options: Mapping) -> str | None:
    """ "Yes" or "No" where the response is exactly that. Raises `ValueError` for another reference than yes or no."""
    _truth(references)
    return prediction if prediction in ("Yes", "No") else None


def _truth(references: Sequence[str]) -> str:
    truth = [reference.strip().lower() for reference in references]
    if truth not in (["yes"], ["no"]):
        raise ValueError(f"amber needs one reference, yes or no, not {brief(list(references))}")
    return truth[0]


def generative_exact(prediction: str, references: Sequence[str], options: Mapping) -> dict:
    """`{words, hallucinated, covered, imagined, truth, hallu}`: words that count, those of them that are neither true nor safe,
    and how many of the annotated true and likely hallucinated objects were named."""
    truth, hallu = _annotated(options, "truth"), _annotated(options, "hallu")
    safe = set(_words(options, "safe_words"))
    known = {word for words in (*truth, *hallu) for word in words} | set(_words(options, "vocabulary"))
    found = [word for word in (_lemma(token, known) for token in tokens(prediction, lower=False)) if word]
    true = {word for words in truth for word in words}
    wrong = [word for word in found if word not in safe and word not in true]
    named = set(found) - safe
    return {
        "words": found,
        "hallucinated": wrong,
        "covered": len({_first(truth, word) for word in named & true}),
        "imagined": len({_first(hallu, word) for word in named - true} - {None}),
        "truth": len(truth),
        "hallu": len(hallu),
    }


def _first(objects: list[tuple[str, ...]], word: str) -> int | None:
    """The object a word stands for: one it is associated with before one that it is, as the official search goes."""
    associated = (i for i, words in enumerate(objects) if word in words[1:])
    return next(associated, next((i for i, words in enumerate(objects) if word == words[0]), None))


def _annotated(options: Mapping, key: str) -> list[tuple[str, ...]]:
    given = options.get(key)
    pairs = given.items() if isinstance(given, Mapping) else ((word, []) for word in _words(options, key, required=True))
    objects = [(word, *others) if isinstance(others, list) else (None,) for word, others in pairs]
    if not all(isinstance(word, str) for words in objects for word in words):
        raise ValueError(f"`{key}` is a list of words, or a mapping word → list of words, not {brief(given)}")
    return objects


def _words(options: Mapping, key: str, required: bool = False) -> list[str]:
    given = options.get(key, None if required else [])
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise ValueError(f"amber needs `{key}`, a list of words, not {brief(given)}")
    return given


def _lemma(token: str, known: set[str]) -> str | None:
    forms = [token, *(token.removesuffix(end) + new for end, new in NOUN_RULES if token.endswith(end))]
    return min((form for form in forms if form in known), key=len, default=None)


def exact(prediction: str, references: Sequence[str], options: Mapping) -> dict | str | None:
    """The scorer of the row's `type`."""
    scorer = generative_exact if options.get("type") == "generative" else discriminative
    return scorer(prediction, references, options)


def discriminative_figures(metric: Metric, rows: list[Row]) -> Figures:
    """Accuracy, precision, recall, F1 of all questions and of each kind; how many responses were neither "Yes" nor "No"."""
    kinds = np.array([KINDS.get(str(row["type"]), "relation") if "type" in row else "" for row in rows])
    answers = np.array([row["score"] or "" for row in rows])
    truth = np.array([_truth(references(row)) for row in rows])
    groups = np.array([str(row.get("image", i)) for i, row in enumerate(rows)])

    def part(where: np.ndarray, counts: int = 1, epsilon: float = 0.0001) -> Figures:
        return _figures(answers[where], truth[where], groups[where], EXTRA * counts, epsilon, metric.variant)

    found = part(np.ones(len(rows), dtype=bool))
    found["unparsed"] = {**stats.share(answers == "", groups, variant=metric.variant), "count": int((answers == "").sum())}
    for kind in ("existence", *ATTRIBUTE, "relation"):
        if (kinds == kind).any():
            found[kind] = part(kinds == kind, epsilon=0.001 if kind == "existence" else 0.0001)
    if np.isin(kinds, ATTRIBUTE).any():
        found["attribute"] = part(np.isin(kinds, ATTRIBUTE), counts=len(ATTRIBUTE))
    return found


def _figures(answers: np.ndarray, truth: np.ndarray, groups: np.ndarray, extra: float, epsilon: float, variant: str) -> Figures:
    right = np.char.lower(answers) == truth
    everything, said, wanted = np.ones(len(right), dtype=bool), answers == "No", truth == "no"
    shares = {
        name: _rounded(right[where], groups[where], extra, variant)
        for name, where in (("accuracy", everything), ("precision", said), ("recall", wanted))
    }
    p, r = shares["precision"]["value"], shares["recall"]["value"]
    f1 = _percent(2 * p * r / (p + r + epsilon))
    return shares | {"f1": stats.figure(f1, None, len(right), variant)}


def _percent(share: float) -> float:
    return round(round(share * 100, 1) / 100, 3)


def _rounded(values: np.ndarray, groups: np.ndarray, extra: float, variant: str) -> stats.Figure:
    """A share with the official denominator and rounding; the interval is of the plain share."""
    value = _percent(float(values.sum()) / (len(values) + extra))
    return {**stats.share(values, groups, variant=variant), "value": value}


def generative_figures(metric: Metric, rows: list[Row]) -> Figures:
    """CHAIR (share of words), Cover (of true objects), Hal (of responses), Cog (of likely hallucinations)."""
    scores = [row["score"] for row in rows]
    ratios: dict[str, tuple[Callable[[dict], float], Callable[[dict], float]]] = {
        "CHAIR": (lambda one: len(one["hallucinated"]), lambda one: len(one["words"])),
        "Cover": (lambda one: one["covered"], lambda one: one["truth"]),
        "Cog": (lambda one: one["imagined"], lambda one: one["hallu"]),
    }
    found = {
        name: _ratio([part(s) for s in scores], [of(s) for s in scores], metric.variant) for name, (part, of) in ratios.items()
    }
    clean = sum(not one["hallucinated"] for one in scores)
    hal = _percent(1 - clean / (len(scores) + EXTRA))
    return found | {"Hal": {**stats.share([bool(one["hallucinated"]) for one in scores], variant=metric.variant), "value": hal}}


def _ratio(parts: list[int], wholes: list[int], variant: str) -> stats.Figure:
    values = np.concatenate([np.arange(n) < k for k, n in zip(parts, wholes, strict=True)]) if wholes else np.zeros(0)
    return _rounded(values, np.repeat(np.arange(len(wholes)), wholes), EXTRA, variant)


def exact_figures(metric: Metric, rows: list[Row]) -> Figures:
    """Both parts, and the AMBER score where there are both."""
    described = [row for row in rows if row.get("type") == "generative"]
    asked = [row for row in rows if row.get("type") != "generative"]
    found: Figures = {}
    if described:
        found |= generative_figures(metric, described)
    if asked:
        found |= discriminative_figures(metric, asked)
    if described and asked:
        found["AMBER"] = stats.figure((1 - found["CHAIR"]["value"] + found["f1"]["value"]) / 2, None, len(rows), metric.variant)
    return found


def _correct(score: str, options: Row) -> bool:
    return score.lower() == _truth(references(options))


VARIANTS = {
    "discriminative": Variant(
        discriminative,
        parses=True,
        needs_references=True,
        correct=_correct,
        guesses=lambda options: ("Yes", "No"),
        tally=whole(discriminative_figures),
    ),
    "generative_exact": Variant(generative_exact, needs_references=False, tally=whole(generative_figures)),
    "exact": Variant(exact, needs_references=False, tally=whole(exact_figures)),
}
