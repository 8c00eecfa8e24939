"""CHAIR (Rohrbach et al., 2018): objects that a caption mentions and the picture does not hold.

A row's `gold_objects` lists COCO categories (or any of their words); `references`, where there are some, are the picture's
human captions, whose objects count as gold too: the official ground truth is both. A row's score says what was mentioned and
what of it was hallucinated. Summary: CHAIRi (share of mentions, all captions together, repeats counted), CHAIRs (share of
captions), recall (share of gold objects mentioned, all captions together), words per caption.

`original` and `opera` (the code of OPERA and of most papers since 2024) disagree on many words: see `coco_words`. `opera` is
by rules, without the part-of-speech tagger and WordNet of its code. Length and truncation move both: publish ids and limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from eval import stats
from eval.cli import nearest
from eval.metrics import coco_words
from eval.metrics.base import Figures, Metric, Row, Variant, brief, whole

Singular = Callable[[str], str]


def score(prediction: str, references: Sequence[str], options: Mapping, *, singular: Singular, pairs: dict[str, str]) -> dict:
    """`{mentioned, hallucinated, gold, words, chair_i, chair_s}` of one caption; lists of categories.

    Raises `ValueError` where a row has neither `gold_objects` nor `references`, or an object that is none of COCO's.
    """
    gold = _gold(options)
    if gold is None and not references:
        raise ValueError("chair needs `gold_objects` (COCO categories), or human captions as `references`")
    seen = set(gold or ()).union(*(coco_words.objects(text, singular, pairs)[0] for text in references))
    mentioned, words = coco_words.objects(prediction, singular, pairs)
    wrong = [name for name in mentioned if name not in seen]
    return {
        "mentioned": mentioned,
        "hallucinated": wrong,
        "gold": sorted(seen),
        "words": words,
        "chair_i": len(wrong) / len(mentioned) if mentioned else 0.0,
        "chair_s": float(bool(wrong)),
    }


def _gold(options: Mapping) -> list[str] | None:
    given = options.get("gold_objects")
    if given is None:
        return None
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"`gold_objects` is a list of COCO categories, not {brief(given)}")
    known = coco_words.categories()
    for name in given:
        if name.lower() not in known:
            raise nearest("COCO object", name, known)
    return [known[name.lower()] for name in given]


def figures(metric: Metric, rows: list[Row]) -> Figures:
    """CHAIRi, CHAIRs, recall and words a caption; intervals count captions (pictures, where rows name an `image`)."""
    scores = [row["score"] for row in rows]
    images = [row.get("image") for row in rows]
    groups = images if all(isinstance(image, str) for image in images) else range(len(rows))
    mentions = [
        (name in set(one["hallucinated"]), group)
        for one, group in zip(scores, groups, strict=True)
        for name in one["mentioned"]
    ]
    gold = [(name in one["mentioned"], group) for one, group in zip(scores, groups, strict=True) for name in one["gold"]]
    share = partial(stats.share, variant=metric.variant)
    return {
        "CHAIRi": share([wrong for wrong, _ in mentions], [group for _, group in mentions]),
        "CHAIRs": share([one["chair_s"] for one in scores], list(groups)),
        "recall": share([found for found, _ in gold], [group for _, group in gold]),
        "words": stats.mean([one["words"] for one in scores], list(groups), variant=metric.variant),
    }


def _variant(singular: Singular, pairs: dict[str, str]) -> Variant:
    return Variant(partial(score, singular=singular, pairs=pairs), needs_references=False, tally=whole(figures))


VARIANTS = {
    "original": _variant(coco_words.original_singular, coco_words.PAIRS),
    "opera": _variant(coco_words.opera_singular, coco_words.OPERA_PAIRS),
}
