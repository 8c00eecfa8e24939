"""The plots of an evaluation's report, as data URIs: figures with their intervals, arms side by side, calibration."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import matplotlib
import numpy as np

from eval.figures import CYCLE, FAINT, SEEN, STYLE, axes, svg
from eval.reporting.calibration import Calibration

BARS = 30  # of a plot, at most: those of the most items
NAME = 36  # characters


@matplotlib.rc_context(STYLE)
def bars(series: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Series (an arm) → name → figure, as bars with their intervals, in the order of the first series' values."""
    sizes: dict[str, int] = {}
    for figures in series.values():
        for name, found in figures.items():
            sizes[name] = max(sizes.get(name, 0), found["n"])
    first = next(iter(series.values()))
    names = sorted(sizes, key=lambda name: -sizes[name])[:BARS]
    names.sort(key=lambda name: (first.get(name) or {}).get("value") or 0.0)
    figure, ax = axes(6.2, 0.9 + len(names) * (0.24 + 0.12 * len(series)))
    height = 0.76 / len(series)
    for index, (label, figures) in enumerate(series.items()):
        shown = [(y, one) for y, name in enumerate(names) if (one := figures.get(name)) and one["value"] is not None]
        values = np.array([100 * one["value"] for _, one in shown])
        ends = np.array([100 * np.array(one.get("interval") or [one["value"]] * 2) for _, one in shown]).reshape(-1, 2)
        places = np.array([y for y, _ in shown]) + (len(series) / 2 - index - 0.5) * height
        style = {"ecolor": "#5b6672", "elinewidth": 0.9, "capsize": 2}
        ax.barh(places, values, height, color=CYCLE[index % len(CYCLE)], xerr=np.abs(ends.T - values), error_kw=style,
                label=_plain(label))  # fmt: skip
    ax.set_yticks(range(len(names)), [f"{_plain(name)}  ({sizes[name]:,})" for name in names])
    ax.set(xlabel="%  (bars: 95 % intervals)")
    ax.grid(axis="x", color=FAINT)
    ax.set_axisbelow(True)
    if len(series) > 1:
        ax.legend(loc="lower right", fontsize=8)
    return _quiet(figure)


@matplotlib.rc_context(STYLE)
def calibration_plot(found: Calibration) -> str:
    """Share of right answers by the model's own probability."""
    figure, ax = axes(3.6, 3.4)
    if found.error is not None:
        ax.plot([0, 100], [0, 100], color="#c9d0d8", lw=0.8)
        ax.set(xlim=(0, 100))
    shares = np.array([100 * share["value"] for _, share in found.bins])
    ends = np.array([100 * np.array(share["interval"]) for _, share in found.bins])
    sure = [100 * sure for sure, _ in found.bins]
    ax.errorbar(sure, shares, yerr=np.abs(ends.T - shares), color=SEEN, marker="o", ms=4, lw=1.2, capsize=2)
    ax.set(xlabel=f"probability of {found.what}, %", ylabel="right, %", ylim=(0, 100))
    return _quiet(figure)


def _plain(name: str) -> str:
    """Tags are other people's text: one line, not too long."""
    text = "".join(c if c.isprintable() else " " for c in name.replace("_", " ")) or "–"
    return text if len(text) <= NAME else text[: NAME - 1] + "…"


def _quiet(figure) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font does not have
        return svg(figure)
