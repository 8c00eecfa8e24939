"""MME (Fu et al., 2023): accuracy, accuracy+ (both questions about a picture right) and the sums over subtasks.

`official` reads "yes", else "no", in the first four characters of the answer in lower case; `lmms_eval` does so once blanks
at the ends and full stops are gone, and takes "y" and "n". Any other answer does not parse, and is wrong. A row names its
`subtask` and its `image`, which is what two questions share. A subtask's score is 100 × (accuracy + accuracy+), `perception`
(up to 2000) and `cognition` (up to 800) are the sums of these; a sum is given only when all its subtasks are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from eval import stats
from eval.metrics.base import Figures, Metric, Row, Variant, references, whole

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION


def official(prediction: str, references: Sequence[str], options: Mapping) -> str | None:
    return _read(prediction.lower())


def lmms_eval(prediction: str, references: Sequence[str], options: Mapping) -> str | None:
    text = prediction.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or _read(text)


def _read(text: str) -> str | None:
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def correct(score: str | None, options: Row) -> bool:
    return score is not None and score in {text.strip().lower() for text in references(options)}


def figures(metric: Metric, rows: list[Row]) -> Figures:
    """Accuracy and accuracy+ of all rows, the sums, and `by_subtask`. Raises `ValueError` for a row without its names."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        subtask, image = row.get("subtask"), row.get("image")
        if subtask not in SUBTASKS or not isinstance(image, str):
            raise ValueError(f"mme needs `image` and `subtask`, one of {', '.join(SUBTASKS)}, not {image!r} and {subtask!r}")
        right[subtask][image].append(metric.correct(row["score"], row))
    pictures = [answers for images in right.values() for answers in images.values()]
    found = _shares(pictures, metric.variant)
    for name, parts in (("perception", PERCEPTION), ("cognition", COGNITION)):
        if all(part in right for part in parts):
            found[name] = _sum([list(right[part].values()) for part in parts], metric.variant)
    by = {part: _shares(list(right[part].values()), metric.variant) for part in SUBTASKS if part in right}
    return {**found, "by_subtask": by, "unparsed": _unparsed(metric, rows)}


def _shares(pictures: list[list[bool]], variant: str) -> Figures:
    groups = [index for index, answers in enumerate(pictures) for _ in answers]
    return {
        "accuracy": stats.share([right for answers in pictures for right in answers], groups, variant=variant),
        "accuracy_plus": stats.share([all(answers) for answers in pictures], variant=variant),
        "score": _sum([pictures], variant),
    }


def _sum(parts: list[list[list[bool]]], variant: str) -> stats.Figure:
    """The sum over subtasks of 100 × (accuracy + accuracy+); each is 200 times a mean over its pictures."""
    strata = [stats.mean([_mean(answers, part) for answers in part], variant=variant) for part in parts]
    return stats.stratified(strata, variant=variant, scale=200 * len(parts))


def _mean(answers: list[bool], part: list[list[bool]]) -> float:
    """A picture's part in (accuracy + accuracy+) / 2; with two questions a picture from 0 to 1."""
    return (sum(answers) * len(part) / sum(map(len, part)) + all(answers)) / 2


def _unparsed(metric: Metric, rows: list[Row]) -> dict:
    lost = [row["score"] is None or "guessed" in row for row in rows]
    return {**stats.share(lost, [row["image"] for row in rows], variant=metric.variant), "count": sum(lost)}


def _variant(read: Callable[[str, Sequence[str], Mapping], str | None]) -> Variant:
    return Variant(read, parses=True, correct=correct, guesses=lambda options: ("yes", "no"), tally=whole(figures))


VARIANTS = {"official": _variant(official), "lmms_eval": _variant(lmms_eval)}
