"""What became of a record: right, wrong, no answer in what was written, an item that could not be asked, or not scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval import metrics
from eval.summarize import values

VERDICTS = ("right", "wrong", "unparsed", "error", "unscored")
RIGHT = 0.5  # a score of this or more: VQA's and token F1's are shares


def score_of(record: Mapping) -> float | None:
    """The metric's first figure of a record as a number; `None` where there is none."""
    if "score" not in record or "metric" not in record:
        return None
    metric = metrics.get(record["metric"])
    found = values(metric, record)
    return found.get(metric.name, next(iter(found.values()), None))


def verdict(record: Mapping) -> str:
    """One of `VERDICTS`."""
    if "error" in record:
        return "error"
    if record.get("prediction") is None:
        return "unparsed"
    if "score" in record and record["score"] is None and metrics.get(record["metric"]).parses:
        return "unparsed"
    score = score_of(record)
    return "unscored" if score is None else "right" if score >= RIGHT else "wrong"


def counts(records: Sequence[Mapping]) -> dict[str, int]:
    """How many of each, those that occur."""
    found = [verdict(record) for record in records]
    return {name: found.count(name) for name in VERDICTS if name in found}
