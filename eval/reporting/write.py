"""From an evaluation to its pages. Questions, answers, tags and pictures are other people's: all is escaped and bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import render
from eval.reporting import plots
from eval.reporting.calibration import calibration
from eval.reporting.cards import cards
from eval.reporting.tables import Table, breakdowns, figure_text, figures_in, is_figure, settings, short, side_by_side, tables
from eval.reporting.text import clean
from eval.reporting.verdicts import VERDICTS, counts
from eval.store import read_lines, write_atomically
from eval.tasks import Item

WENT_WRONG = ("unparsed", "cut", "refused", "empty")  # figures of outputs, not of answers
ALONE = "answers"  # the name of an evaluation's only arm


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    summary: Mapping
    records: Sequence[Mapping]


def report_directory(out: Path, summary: Mapping, items: Iterable[Item], model: str = "") -> Path:
    """`write_report` of an evaluation, or of several arms, from the records that lie under `out`."""
    arms = summary.get("arms") or {"": summary}
    return write_report(out, {name: read_all(Path(out) / name, items) for name in arms}, summary, items, model)


def write_report(
    out: Path,
    records: Sequence[dict] | Mapping[str, Sequence[dict]],
    summary: Mapping,
    items: Iterable[Item],
    model: str = "",
) -> Path:
    """Write `report.html` and `report.md` under `out`; returns the first's path. `records`: of one evaluation, or by arm as in
    `summary["arms"]`; `items` give the pictures; `model` is a name to show."""
    by_arm = records if isinstance(records, Mapping) else {"": records}
    summaries = summary.get("arms") or {"": summary}
    arms = [Arm(name or ALONE, summaries[name], by_arm[name]) for name in summaries]
    content = _content(arms, summary, items, model)
    path = Path(out) / "report.html"
    write_atomically(path, render("reporting/evaluation.html.j2", content))
    write_atomically(path.with_suffix(".md"), markdown(content))
    return path


def read_all(folder: Path, items: Iterable[Item]) -> list[dict]:
    """All records of the items, whichever process wrote them; of several seeds of the support the first's."""
    seeds = sorted(folder.glob("support-seed-*/"), key=lambda path: (len(path.name), path.name))
    place = seeds[0] if seeds and not list(folder.glob("records*.jsonl")) else folder
    rows = {row["id"]: row for path in sorted(place.glob("records*.jsonl"), reverse=True) for row in read_lines(path)[0]}
    return [rows[item.id] for item in items if item.id in rows]


def _content(arms: Sequence[Arm], summary: Mapping, items: Iterable[Item], model: str) -> dict[str, Any]:
    several = len(arms) > 1
    found = {arm.name: calibration(arm.records) for arm in arms}
    plotted = {name: c for name, c in found.items() if c is not None}
    samples = cards({arm.name: arm.records for arm in arms}, items)
    return {
        "task": clean(summary.get("task", ""), 200),
        "metric": clean(summary.get("metric", ""), 200),
        "model": clean(model, 300),
        "settings": _settings(arms),
        "missing": summary.get("missing", 0),
        "tiles": [] if several else _tiles(arms[0]),
        "arms": _arms_table(arms) if several else None,
        "arms_plot": _arms_plot(arms) if several else None,
        "went_wrong": _went_wrong(arms),
        "breakdowns": _breakdowns(arms),
        "tables": side_by_side({a.name: tables(a.summary) for a in arms}) + (tables(summary) if several else []),
        "calibration": {name: (plots.calibration_plot(c), c) for name, c in plotted.items()},
        "cards": samples,
        "verdicts": [name for name in VERDICTS if any(card["answers"][0]["verdict"] == name for card in samples)],
        "several": several,
    }


def _settings(arms: Sequence[Arm]) -> dict[str, str]:
    """Those that all arms share."""
    first, *others = [settings(arm.summary) for arm in arms]
    return {name: clean(value, 200) for name, value in first.items() if all(other.get(name) == value for other in others)}


def _tiles(arm: Arm) -> list[tuple[str, str, str]]:
    """Name, value, and what it is, of each figure over all."""
    figures = {name: f for name, f in figures_in(arm.summary).items() if name not in WENT_WRONG}
    return [(short(n), figure_text(f), f"n {f['n']:,} · {clean(f['variant'], 100)}") for n, f in figures.items()]


def _arms_table(arms: Sequence[Arm]) -> Table:
    names = list(dict.fromkeys(name for arm in arms for name in figures_in(arm.summary) if name not in WENT_WRONG))
    versus = f"against_{arms[0].name}"
    rows = {}
    for arm in arms:
        found = figures_in(arm.summary)
        rows[arm.name] = (*(figure_text(found.get(name)) for name in names), _versus(arm.summary.get(versus)))
    return Table("arms", (*map(short, names), f"minus {arms[0].name}, paired"), rows)


def _versus(found: Mapping | None) -> str:
    if not found:
        return ""
    parts = found.get("support_seeds", {"": found})
    lines = [
        f"{f'seed {seed}: ' if seed else ''}{figure_text(one['difference'])}, better in {one['only_a_right']}, "
        f"worse in {one['only_b_right']}, McNemar p {one['mcnemar_p']:.3g}"
        for seed, one in parts.items()
    ]
    return "; ".join(lines)


def _arms_plot(arms: Sequence[Arm]) -> str | None:
    name = str(arms[0].summary.get("metric", "")).partition(":")[0]
    figures = {arm.name: f for arm in arms if (f := figures_in(arm.summary).get(name)) and "interval" in f}
    return plots.bars({name: figures}) if figures else None


def _went_wrong(arms: Sequence[Arm]) -> Table:
    """Answers and outputs by what became of them."""
    columns = [name for name in WENT_WRONG if any(is_figure(arm.summary.get(name)) for arm in arms)]
    verdicts = {arm.name: counts(arm.records) for arm in arms}
    occurring = [name for name in VERDICTS if any(name in found for found in verdicts.values())]
    rows = {}
    for arm in arms:
        numbers = [f"{verdicts[arm.name].get(name, 0):,}" for name in occurring]
        rows[arm.name] = (*numbers, *(figure_text(arm.summary.get(name)) for name in columns))
    return Table("what became of them", (*occurring, *(f"{name}, share" for name in columns)), rows)


def _breakdowns(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Tag and plot; arms side by side."""
    found = {arm.name: breakdowns(arm.summary) for arm in arms}
    tags = dict.fromkeys(tag for parts in found.values() for tag in parts)
    series = {tag: {name: parts[tag] for name, parts in found.items() if tag in parts} for tag in tags}
    return [(short(tag), plots.bars(parts)) for tag, parts in series.items()]


def markdown(content: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"# {_escape(content['task'])}", ""]
    lines += [f"{_escape(content['model'])} · " * bool(content["model"]) + _escape(content["metric"]), ""]
    lines += [f"- {_escape(name)}: {_escape(value)}" for name, value in content["settings"].items()] + [""]
    lines += [f"**{content['missing']} items are missing.**", ""] if content["missing"] else []
    if content["tiles"]:
        lines += _md_table("", ("figure", "", ""), content["tiles"])
    for table in [table for table in (content["arms"], content["went_wrong"]) if table] + content["tables"]:
        lines += _md_table(table.title, ("", *table.columns), [(name, *cells) for name, cells in table.rows.items()])
    for name, (_, c) in content["calibration"].items():
        error = "" if c.error is None else f", expected calibration error {100 * c.error:.1f} %"
        lines += [f"Calibration, {_escape(name)}: AUROC {c.auroc:.3f} (probability of {c.what}, n {c.n:,}{error})", ""]
    return "\n".join(lines)


def _md_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"## {_escape(title)}", ""] if title else []
    lines += [f"| {' | '.join(map(_escape, header))} |", "|" + " --- |" * len(header)]
    return [*lines, *(f"| {' | '.join(map(_escape, row))} |" for row in rows), ""]


def _escape(text: str) -> str:
    """Names and values of other people's as plain text in Markdown."""
    text = clean(" ".join(text.split()), 500)
    return re.sub(r"([\\`*_{}\[\]<>#|~!$])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")
