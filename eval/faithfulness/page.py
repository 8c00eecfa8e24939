"""`report.html` of a faithfulness run, one file without a network: the curve of early answering, every figure with its reading,
and the items with each test's answers; and the curve as PNG and SVG beside it.

Questions and answers are other people's text: the template escapes everything.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from eval.faithfulness.summary import SHARES, curve
from eval.faithfulness.tests import TESTS
from eval.figures import ACCENT, FAINT, SEEN, STYLE
from eval.store import write_atomically
from eval.table import share_text

TEMPLATE = Path(__file__).with_name("page.html.j2")
MOST = 200  # items on the page
THIN = 4  # numbers of steps with a line of their own, at most
_OF_SUFFIX = {
    "accuracy": "the score of these answers",
    "accuracy_at_0": "the score with no step: far below that of direct answers, the area shows confusion, too",
    "follows_rationale": "of answers that rationale and picture decide differently, those of the rationale",
    "follows_picture": "of the same, those of the picture",
}
_OTHERS = {
    "rationale_gain": ("rationale first minus direct", "what rationales add to the score"),
    "steps_correct": ("", "of the steps that the table decides, those that are right"),
    "steps_checkable": ("", "of all steps, those that the table decides"),
    "rationales_correct": ("", "rationales with a step that the table decides, and none that is wrong"),
    "accuracy_rationale_right": ("", "the score where no step is wrong"),
    "accuracy_rationale_wrong": ("", "the score where one is: a right answer here does not come from the rationale"),
}


def write_page(out: Path, summary: Mapping, records: Sequence[dict]) -> Path:
    """Write `report.html` under `out`, `early_answering.png` and `.svg` beside it; returns the page's path."""
    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.ChainableUndefined)
    environment.filters["share"] = share_text
    asked = [record for record in records if "tests" in record]
    content = {"summary": summary, "rows": _rows(summary), "records": asked[:MOST], "total": len(asked)}
    path = Path(out) / "report.html"
    page = environment.get_template(TEMPLATE.name).render(content | {"plot": _plot(path.parent, summary, asked)})
    write_atomically(path, page)
    return path


def _rows(summary: Mapping) -> list[dict]:
    return [
        {"name": name, "figure": figure, **dict(zip(("about", "reading"), _words(name), strict=True))}
        for name, figure in summary.items()
        if isinstance(figure, Mapping) and "interval" in figure
    ]


def _words(name: str) -> tuple[str, str]:
    """What is changed for a figure, and how it reads."""
    test = next((test for test in TESTS if name.startswith(f"{test}_")), None)
    if name in _OTHERS or test is None:
        return _OTHERS.get(name, ("", ""))
    return TESTS[test].about, _OF_SUFFIX.get(name.removeprefix(f"{test}_"), TESTS[test].reading)


def _plot(out: Path, summary: Mapping, records: Sequence[dict]) -> str | None:
    """The curve as files and as a data URI."""
    found = [record["tests"]["early_answering"] for record in records if record["tests"].get("early_answering")]
    if not found:
        return None
    figure = early_answering_figure(summary["by_share_shown"], found)
    with matplotlib.rc_context(STYLE):
        figure.savefig(out / "early_answering.svg", metadata={"Date": None})
        figure.savefig(out / "early_answering.png", dpi=144)
    svg = (out / "early_answering.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


@matplotlib.rc_context(STYLE)
def early_answering_figure(shares: Mapping[str, Mapping], found: Sequence[Mapping]) -> Figure:
    """Share of answers that are final already, over the share of the rationale shown: over all items with its intervals, and
    thin lines for the most frequent numbers of steps."""
    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    ax = figure.add_subplot()
    counts = [one["shown"][-1] for one in found]
    for count in sorted(set(counts), key=lambda c: (-counts.count(c), c))[:THIN]:
        curves = [curve(one) for one, steps in zip(found, counts, strict=True) if steps == count]
        same = np.mean([values for _, values in curves], axis=0)
        label = f"{count} step{'s' if count > 1 else ''} ({len(curves)})"
        ax.plot(100 * curves[0][0], 100 * same, lw=0.8, marker=".", ms=3, alpha=0.7, label=label)
    rows = list(shares.values())
    bounds = np.array([row["interval"] or (row["value"],) * 2 for row in rows])
    at = 100 * np.array(SHARES)
    ax.fill_between(at, 100 * bounds[:, 0], 100 * bounds[:, 1], color=SEEN, alpha=0.15, lw=0)
    ax.plot(at, [100 * row["value"] for row in rows], color=SEEN, lw=2, marker="o", ms=4, label=f"all ({len(found)})")
    ax.axhline(100, color=ACCENT, lw=0.8, ls="--")
    ax.set(xlabel="share of the rationale shown, %", ylabel="final answer already, %", xlim=(0, 100), ylim=(0, 103))
    ax.grid(color=FAINT)
    ax.legend(fontsize=7, loc="lower right")
    return figure
