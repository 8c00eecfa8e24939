"""What went wrong in a rationale: each step is checked against the chart's table, and the first fault gives the error its name.

A wrong answer is put down to the first of these that holds, in the order of the rationale:

    wrong_value       a number said to be in the chart is not there, or not at that mark; a row or a count of marks is wrong
    wrong_label       a mark that is not in the chart or not at that place; or, all steps being true, marks other than asked for
    wrong_arithmetic  a calculation or a comparison of numbers read rightly does not come out
    wrong_operation   all steps are true, and yet it adds where it should subtract, takes the lowest for the highest, or stops
                      before the calculation
    inconsistent      the rationale is that of the right answer, and the answer given is another
    unparsed          no answer, or no step that can be judged

The gold rationale says which marks and which operation were asked for; whatever the model reads besides is no fault.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.charts.asker import UNANSWERABLE
from datasets.charts.held_out import ChartItem, held_out_items
from datasets.charts.kinds import CHART_TYPES
from datasets.charts.steps import StepCheck, check_steps
from datasets.charts.table import Table
from eval import cli, stats
from eval.store import read_records, write_json

ERRORS = ("wrong_value", "wrong_label", "wrong_arithmetic", "wrong_operation", "inconsistent", "unparsed")
_MOST = {word: side for words in CHART_TYPES.values() for word, side in zip(words.superlative, ("high", "low"), strict=True)}


@dataclass(frozen=True, slots=True)
class Fault:
    """`step` is the text of the step at fault, "" where it is none in particular."""

    error: str  # one of ERRORS
    step: str = ""


def find_fault(rationale: str | None, answer: str | None, table: Table, gold_rationale: str) -> Fault:
    """The error of a rationale whose `answer` is known to be wrong. Never raises, whatever the text."""
    checks = [check for check in check_steps(rationale or "", table) if check.kind != "unparsed"]
    if answer is None or not checks:
        return Fault("unparsed")
    for check in checks:
        if check.correct is False:
            return Fault(_name_of(check, table), check.text)
    gold = check_steps(gold_rationale, table)
    if _absence(checks) != _absence(gold):  # it took a mark for one that is missing, or missed one
        return Fault("wrong_label", checks[-1].text)
    if _operations(checks, table) != _operations(gold, table):
        return Fault("wrong_operation")
    if not _same_subject(checks, gold, table):
        return Fault("wrong_label")
    return Fault("inconsistent")


def _name_of(check: StepCheck, table: Table) -> str:
    """The error in a step that is false."""
    wrong = [check.text[a - check.start : b - check.start] for a, b, correct in check.spans if not correct]
    numbers = [table.number.parse(text) is not None and text not in (*table.categories, *table.series) for text in wrong]
    if check.kind == "fact":
        if _trend_word(check.text):
            return "wrong_arithmetic" if wrong and wrong[0] == _trend_word(check.text) else "wrong_label"
        return "wrong_value" if all(numbers) else "wrong_label"
    if check.kind == "comparison" and not any(numbers):
        return "wrong_label" if any(not _in_chart(name, table) for name in wrong) else "wrong_arithmetic"
    last = check.spans[-1] if check.spans else None  # of a calculation: its result; the operands stand before it
    operands = [span for span in check.spans if span is not last and not span[2]]
    return "wrong_value" if operands and check.text[operands[0][0] - check.start] not in "<>=" else "wrong_arithmetic"


def _absence(checks: Sequence[StepCheck]) -> bool:
    return checks[-1].text.startswith("no ")


def _in_chart(name: str, table: Table) -> bool:
    return name in (*table.categories, *table.series, "<", ">", "=", "none")


def _trend_word(text: str) -> str:
    word = text.rpartition(" ")[2]
    return word if word in ("rising", "falling", "flat", "mixed") else ""


def _operations(checks: Sequence[StepCheck], table: Table) -> list[tuple[str, ...]]:
    """What is done with what was read, step by step, whatever the marks."""
    return [operation for check in checks if (operation := _operation(check, table))]


def _operation(check: StepCheck, table: Table) -> tuple[str, ...]:
    words = check.text.split(" ")
    if check.kind == "arithmetic":
        return ("count",) if words[0] == "count" else tuple(sorted({*words[1:-2:2]}))
    if check.kind == "comparison":
        if words[0] in ("above", "below"):
            return words[0], words[1]
        return ("most", _MOST[words[0]]) if words[0] in _MOST else ("compare",)
    if _trend_word(check.text):
        return ("trend",)
    return ("tally", words[1]) if len(words) == 2 and words[0].isdigit() and words[1] in _counted() else ()


def _counted() -> set[str]:
    return {f"{word}s" for words in CHART_TYPES.values() for word in (words.item, words.group) if word}


def _same_subject(checks: Sequence[StepCheck], gold: Sequence[StepCheck], table: Table) -> bool:
    """Do both end on the same marks? Facts that only one of them reads on the way do not count."""
    return _subjects(checks, table) == _subjects(gold, table)


def _subjects(checks: Sequence[StepCheck], table: Table) -> list[tuple[str, ...]]:
    """Each operation with its operands and the row or column that it looks along; the last fact, where that is the end."""
    subjects, view = [], ""
    for i, check in enumerate(checks):
        name, colon, _ = check.text.partition(": ")
        view = name if colon and check.kind == "fact" else view
        if _operation(check, table):
            subjects.append((view, *_operands(check)))
        elif i == len(checks) - 1:
            subjects.append((view, check.text))
    return subjects


def _operands(check: StepCheck) -> tuple[str, ...]:
    """`2 + 3` and `3 + 2`, `7 > 3` and `3 < 7` are the same."""
    words = check.text.split(" ")
    commutes = (check.kind == "arithmetic" and "+" in words) or (len(words) == 3 and words[1] in ("<", ">"))
    named = [word for word in words if word not in ("<", ">")] if commutes else words
    return tuple(sorted(named) if commutes else named)


def conclusion(rationale: str, table: Table, kind: str) -> str | None:
    """What the last step says the answer is; `None` where that takes more than reading it (a comparison, most yes/no)."""
    checks = [check for check in check_steps(rationale, table) if check.kind != "unparsed"]
    if not checks:
        return None
    last, text = checks[-1], checks[-1].text
    if text.startswith("no "):
        return "no" if kind == "yes_no" else UNANSWERABLE
    if text.endswith(" is there"):
        return "yes"
    if kind in ("yes_no", "compare") or _operation(last, table) == ("compare",):
        return None
    if _operation(last, table)[:1] == ("tally",):
        return text.split(" ")[0]
    return text.partition(" is ")[2] or text.rpartition(" ")[2]


def analyse(records: Sequence[Mapping[str, Any]], charts: Sequence[ChartItem]) -> list[dict]:
    """One row for each wrong answer of an arm that reasons: its error, the step at fault, what it was asked, and whether the
    answer follows from the rationale's last step, wrong as that may be (`null`: cannot be told).

    Records are joined to charts by `id`. Raises `ValueError` for a record of another set of charts.
    """
    by_id, rows = {chart.id: chart for chart in charts}, []
    for record in records:
        if not {"id", "score", "prediction", "image"} <= record.keys():
            raise ValueError(f"record {str(record)[:80]}: without id, score, prediction or image, not of an evaluation")
        if record["score"] or record.get("rationale") is None:
            continue
        if (chart := by_id.get(record["id"])) is None:
            raise ValueError(
                f"record {record['id']!r} is not about one of these {len(charts)} charts: another profile or seed?"
            )
        fault = find_fault(record["rationale"], record["prediction"], chart.table, chart.rationale)
        row = {"id": chart.id, "error": fault.error, "step": fault.step, "kind": chart.kind, "type": chart.chart_type}
        said = conclusion(record["rationale"], chart.table, chart.kind)
        row["follows"] = None if said is None or record["prediction"] is None else said == record["prediction"]
        row |= {"answer": record["prediction"], "gold": chart.answer, "image": record["image"]}
        rows.append(row | {"rationale": record["rationale"], "gold_rationale": chart.rationale})
    return rows


def error_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, stats.Figure]:
    """Each error's share of the wrong answers, with its interval; the shares add up to 1."""
    images = [row["image"] for row in rows]
    variant = "share of wrong answers with a rationale"
    return {error: stats.share([float(row["error"] == error) for row in rows], images, variant=variant) for error in ERRORS}


def error_table(rows: Sequence[Mapping[str, Any]], by: str = "kind") -> list[list[str]]:
    """Header and rows of counts for the report: one line a kind of question (or chart type), one column an error."""
    names = sorted({row[by] for row in rows})
    lines = [[by, "wrong", *(error.replace("_", " ") for error in ERRORS)]]
    for name in (*names, "all"):
        chosen = [row["error"] for row in rows if name in ("all", row[by])]
        lines.append([name, str(len(chosen)), *(str(chosen.count(error)) for error in ERRORS)])
    return lines


def main() -> None:
    args = _arguments()
    from eval.run import chart_settings  # the charts that the run was evaluated on

    path = args.records or args.checkpoint / "eval" / "charts" / "reason" / "records.jsonl"
    if not path.is_file():
        raise ValueError(f"no records at {path}: python -m eval.run --checkpoint {args.checkpoint} --task charts makes them")
    own = chart_settings(args.checkpoint)
    rows = analyse(read_records(path), held_out_items(own["seed"], own["count"], own["profile"]))
    write_json(path.parent / "errors.json", {"shares": error_shares(rows), "rows": rows})
    for line in error_table(rows, args.by):
        print("".join(cell.ljust(18) for cell in line).rstrip())
    print(f"each wrong answer: {path.parent / 'errors.json'}")


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.error_analysis",
        "Which error is it? Each wrong answer with a rationale, its steps checked against the table.",
        "python -m eval.error_analysis --checkpoint runs/vlm --by type",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run directory, evaluated on charts")
    parser.add_argument("--records", type=Path, metavar="FILE", help="default: RUN/eval/charts/reason/records.jsonl")
    parser.add_argument("--by", choices=("kind", "type"), default="kind", help="lines of the table (default: kind)")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
