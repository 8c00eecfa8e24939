"""From scored records to figures: over all, by each of a task's tags, and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval import metrics, stats
from eval.metrics import Metric
from eval.table import share_text
from eval.tasks import Task


def score(metric: Metric, records: Sequence[dict]) -> None:
    """Give each record that has none its `score`, as `Metric.scored` does.

    Raises `ValueError` naming the record for references or options that the metric cannot use.
    """
    asked = [record for record in records if "error" not in record]
    if metric.score is None:
        if any("score" not in record for record in asked):
            rows = [{**record, "prediction": record["prediction"] or ""} for record in asked]
            for record, value in zip(asked, metric.score_corpus(rows), strict=True):
                record["score"] = value
        return
    for record in asked:
        if "score" not in record:
            record["score"] = _score(metric, record)


def _score(metric: Metric, record: dict) -> Any:
    try:
        return metric.scored(record["prediction"], record["references"], record)
    except ValueError as error:
        raise ValueError(f"item {record['id']}: {metric.label}: {error}") from None


def summarize(task: Task, records: Sequence[dict]) -> dict:
    """Figures over all scored records, by each of the task's tags, and the mean over one of them where the task says so;
    `unparsed`: outputs without an answer; `cut`: outputs that ran into max_new_tokens; `refused`, `empty`: such outputs where
    there are some; `errors`: items that could not be asked.
    """
    metric, asked = metrics.get(task.metric), [record for record in records if "error" not in record]
    summary: dict[str, Any] = {}
    if all("score" in record for record in asked):
        summary |= figures(metric, asked)
        for tag in task.by:
            summary[f"by_{tag}"] = {name: main_figure(metric, rows) for name, rows in split_by(asked, tag).items()}
            if tag == task.mean_of and len(summary[f"by_{tag}"]) > 1:
                summary[f"mean_of_{tag}s"] = _mean_of(metric, asked, tag)
        if task.also and asked:
            summary["also"] = {label: _also(label, asked) for label in task.also}
    images = [record["image"] for record in asked]
    unparsed = [float(record["prediction"] is None or _unparsed(metric, record)) for record in asked]
    summary["unparsed"] = stats.share(unparsed, images, variant="share of outputs without an answer")
    cut = [float(record.get("finish") == "length") for record in asked]
    summary["cut"] = stats.share(cut, images, variant="share of outputs cut at max_new_tokens")
    for name, found in _nothing_said(asked).items():
        summary[name] = stats.share(found, images, variant=f"share of outputs that are {name}")
    return summary | _errors(records)


def _also(label: str, records: Sequence[dict]) -> dict:
    """Another metric's figures of the same predictions."""
    rows = [{key: value for key, value in record.items() if key != "score"} for record in records]
    score(metrics.get(label), rows)
    return figures(metrics.get(label), rows)


def _nothing_said(asked: Sequence[Mapping]) -> dict[str, list[float]]:
    """Only what occurs."""
    found = {"refused": [r.get("finish") == "refused" for r in asked], "empty": [r.get("output") == "" for r in asked]}
    return {name: list(map(float, values)) for name, values in found.items() if any(values)}


def _unparsed(metric: Metric, record: Mapping) -> bool:
    return metric.parses and record.get("score", "") is None


def _errors(records: Sequence[dict]) -> dict:
    failed = [record for record in records if "error" in record]
    return {"errors": {"count": len(failed), "first": failed[0]["error"]}} if failed else {}


def figures(metric: Metric, records: Sequence[dict]) -> dict:
    """The metric's own summary of scored records; of none, its name with nothing to measure."""
    found = metric.summarize(records) if records else {}
    found.pop("unparsed", None)  # `summarize` counts it, for every metric alike
    return found or {metric.name: stats.figure(float("nan"), None, 0, metric.variant)}


def main_figure(metric: Metric, records: Sequence[dict]) -> dict:
    """The metric's figure of that name; where it has several of other names, all of them."""
    found = figures(metric, records)
    return found.get(metric.name, found)


def accuracy(task: Task, records: Sequence[dict]) -> stats.Figure:
    """Mean score with its interval, of the records that have one; questions about one picture are one group."""
    return main_figure(metrics.get(task.metric), [record for record in records if "score" in record])


def paired(a: Sequence[dict], b: Sequence[dict], variant: str) -> stats.Figure:
    """Mean of a's scores less b's, over the items that have both; records of the same items in the same order."""
    both = [(x["score"], y["score"], y["image"]) for x, y in zip(a, b, strict=True) if "score" in x and "score" in y]
    return stats.paired_difference([x for x, _, _ in both], [y for _, y, _ in both], [i for _, _, i in both], variant=variant)


def values(metric: Metric, record: Mapping) -> dict[str, float]:
    """A record's score as numbers, by figure: of a parser whether its answer is right."""
    found = record["score"]
    if metric.parses:
        return {metric.name: float(metric.correct(found, record))}
    if isinstance(found, Mapping):
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return {} if found is None else {metric.name: float(found)}


def answer_value(metric: Metric, record: Mapping, answer: str | None) -> float:
    """The main figure of `record`'s item for another answer than its own; none is 0."""
    if answer is None:
        return 0.0
    row = {**record, "prediction": answer}
    return values(metric, {**row, "score": metric.score(answer, record["references"], row)}).get(metric.name, 0.0)


def _mean_of(metric: Metric, records: Sequence[dict], tag: str) -> stats.Figure:
    """The mean of a tag's values' means, each of the same weight."""
    strata = [
        stats.mean([values(metric, r).get(metric.name, 0.0) for r in rows], [r["image"] for r in rows], variant=metric.variant)
        for rows in split_by(records, tag).values()
    ]
    return stats.stratified(strata, variant=metric.variant)


def split_by(records: Sequence[dict], tag: str) -> dict[str, list[dict]]:
    """Records by the value of a tag, in the alphabet's order; one with several values is of each, one with "" of none."""
    found: dict[str, list[dict]] = {}
    for record in records:
        for name in filter(None, [record[tag]] if isinstance(record[tag], str) else record[tag]):
            found.setdefault(name, []).append(record)
    return dict(sorted(found.items()))


def summary_lines(summary: Mapping) -> list[str]:
    """A line a figure, the metric's variant with it."""
    lines = [f"{summary['task']}  {summary['metric']}"]
    for name, value in summary.items():
        if isinstance(value, dict) and "interval" in value:
            lines.append(_line(name, value))
        elif name.startswith("by_"):
            lines += [_line(f"{name} {tag}", figure) for tag, figure in value.items() if "interval" in figure]
    for found in summary.get("also", {}).values():
        lines += [_line(name, value) for name, value in found.items() if "interval" in value]
    if errors := summary.get("errors"):
        lines.append(f"{errors['count']} items could not be asked, the first: {errors['first']}")
    return [*lines, f"{summary['missing']} items are missing"] if summary.get("missing") else lines


def _line(name: str, figure: stats.Figure) -> str:
    return f"  {name:<28} {share_text(figure):<24} n {figure['n']:<7} {figure['variant']}"
