"""Self-consistency (Wang et al., 2023): several rationales are drawn, and the answer that most of them come to is taken.

Votes are parsed answers (`Asking.vote`): what does not parse does not vote, and of answers with equally many votes the one
drawn first wins. Beside the vote's score stand the mean of the single samples' and that of the best of them (oracle@k), so that
one sees what voting adds and what choosing could add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval import stats
from eval.arms.base import Answered, Steps
from eval.arms.settings import Asking
from eval.arms.single import reasoning
from eval.metrics import Metric
from eval.summarize import answer_value
from eval.tasks import Item


def self_consistency(item: Item, asking: Asking) -> Steps:
    """The record gets all `outputs`, their `answers`, the `votes` for the winner and the `voters`."""
    written = yield reasoning(item, asking)
    parts = [asking.prompter.convention.split(w.text) for w in written]
    answers = [asking.answer(answer) for _, answer in parts]
    ballots = [None if answer is None else asking.vote(item, answer) for answer in answers]
    best = winner(ballots)
    place = 0 if best is None else ballots.index(best)
    extra = {
        "outputs": [w.text for w in written], "answers": answers, "votes": ballots.count(best) if best is not None else 0,
        "voters": sum(ballot is not None for ballot in ballots),
    }  # fmt: skip
    return Answered(answers[place] if best is not None else None, written[place].text, parts[place][0], extra)


def winner(ballots: Sequence[str | None]) -> str | None:
    """The most frequent ballot that is not `None`; of equals the first."""
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    return counts.most_common(1)[0][0] if counts else None


def figures(records: Sequence[dict], metric: Metric) -> dict[str, stats.Figure]:
    """Of scored records: the mean score over single samples (what does not parse counts 0), that of the best of each item's k,
    and the share of samples that vote with the winner."""
    scores = [[answer_value(metric, record, answer) for answer in record["answers"]] for record in records]
    images, k = [record["image"] for record in records], max(map(len, scores), default=0)
    agree = [record["votes"] / len(record["answers"]) for record in records]
    single, best = [sum(row) / len(row) for row in scores], [max(row) for row in scores]
    return {
        "single_sample": stats.mean(single, images, variant=f"{metric.variant}, mean of {k} samples"),
        f"oracle_at_{k}": stats.mean(best, images, variant=f"{metric.variant}, best of {k} samples"),
        "agreement": stats.mean(agree, images, variant=f"share of {k} samples that vote with the winner"),
    }
