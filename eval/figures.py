"""The report's pictures, each as a data URI: plots as SVG, heat maps as PNG. No state between calls, no dates inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cycler
import matplotlib
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.curves import Curve, Curves
from vlm.image import open_image

SEEN, BLANK, ACCENT, WRONG, INK, FAINT = "#2a6fbb", "#b6bfca", "#e08a2e", "#c8434a", "#2b333d", "#e4e8ed"
CYCLE = (SEEN, ACCENT, "#4c9a6a", "#8a63b0", WRONG, "#8d99a6")
FULL = 4  # times an even share of the attention: the brightest colour of a heat map
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.edgecolor": "#9aa4af", "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "report",
    "text.parse_math": False, "axes.prop_cycle": cycler.cycler(color=CYCLE),
}  # fmt: skip


@matplotlib.rc_context(STYLE)
def loss_figure(curves: Curves) -> str:
    """Training and held-out loss over all stages' tokens; stages are parted and named."""
    figure, ax = axes(6.2, 3.0)
    start, shown = 0.0, []
    for stage, names in curves.items():
        ends = [names[n].tokens[-1] for n in ("train/loss", "valid/loss") if n in names]
        for name, style in _LOSSES.items():
            if name in names:
                curve = names[name]
                values = _smooth(curve.values) if name == "train/loss" else curve.values
                ax.plot((start + np.array(curve.tokens)) / 1e6, values, label=None if name in shown else _LABELS[name], **style)
                shown.append(name)
        ax.text(start / 1e6, 1.02, f" {stage}", transform=ax.get_xaxis_transform(), color="#69737f")
        ax.axvline(start / 1e6, color="#c9d0d8", lw=0.8, zorder=0)
        start += max(ends, default=0.0)
    ax.set(xlabel="million tokens", ylabel="loss of a learnt token, nats")
    ax.set_ylim(bottom=0, top=_robust_top(curves))
    ax.legend(loc="upper right", fontsize=8)
    return svg(figure)


_LOSSES: dict[str, dict[str, Any]] = {
    "train/loss": {"color": "#8d99a6", "lw": 1.0},
    "valid/loss": {"color": SEEN, "lw": 1.6, "marker": "o", "ms": 3},
    "valid/loss_blank": {"color": ACCENT, "lw": 1.2, "marker": "o", "ms": 3, "ls": "--"},
}
_LABELS = {"train/loss": "training", "valid/loss": "held out, with image", "valid/loss_blank": "held out, image blanked"}


def _smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """Exponential mean, so that the curve can be read; starts at the first value."""
    out: list[float] = []
    for value in values:
        out.append(value if not out or not np.isfinite(value) else weight * out[-1] + (1 - weight) * value)
    return out


def _robust_top(curves: Curves) -> float | None:
    values = [v for names in curves.values() for name in _LOSSES if name in names for v in names[name].values if np.isfinite(v)]
    return 1.08 * float(np.quantile(values, 0.98)) if values else None


@matplotlib.rc_context(STYLE)
def speed_figure(speed: Curves) -> str:
    """Over all stages' tokens: MFU where a device's peak was known, else its TFLOP/s."""
    figure, ax = axes(6.2, 2.2)
    known = any("speed/mfu" in names for names in speed.values())
    name, scale, label = ("speed/mfu", 100, "MFU, %") if known else ("speed/tflops", 1, "TFLOP/s of a device")
    start = 0.0
    for stage, names in speed.items():
        if name in names:
            ax.plot((start + np.array(names[name].tokens)) / 1e6, scale * np.array(names[name].values), color=SEEN, lw=1.2)
        ax.text(start / 1e6, 1.02, f" {stage}", transform=ax.get_xaxis_transform(), color="#69737f")
        ax.axvline(start / 1e6, color="#c9d0d8", lw=0.8, zorder=0)
        start += max((curve.tokens[-1] for curve in names.values()), default=0.0)
    ax.set(xlabel="million tokens", ylabel=label)
    ax.set_ylim(bottom=0)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def accuracy_figure(seen: Mapping[str, dict], blank: Mapping[str, dict]) -> str:
    """Accuracy by kind, with the picture and blanked, with 95 % intervals."""
    names = sorted(seen, key=lambda name: seen[name]["value"] or 0.0)
    figure, ax = axes(6.2, 0.9 + 0.36 * len(names))
    for offset, figures, colour, label in ((0.19, seen, SEEN, "with image"), (-0.19, blank, BLANK, "image blanked")):
        rows = [figures.get(name) or {"value": None, "interval": None} for name in names]
        values = np.array([100 * (row["value"] or 0.0) for row in rows])
        bounds = np.array([row["interval"] or (value / 100, value / 100) for row, value in zip(rows, values, strict=True)])
        errors = np.abs(100 * bounds.T - values) if rows else None
        style = {"ecolor": "#5b6672", "elinewidth": 0.9, "capsize": 2}
        ax.barh(np.arange(len(names)) + offset, values, height=0.36, color=colour, label=label, xerr=errors, error_kw=style)
    ax.set_yticks(range(len(names)), [f"{name.replace('_', ' ')}  ({seen[name]['n']})" for name in names])
    ax.set(xlim=(0, 100), xlabel="accuracy, %  (bars: 95 % intervals)")
    ax.grid(axis="x", color=FAINT)
    ax.set_axisbelow(True)
    ax.legend(loc="lower right", fontsize=8)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def roc_figure(doubts: Mapping[str, np.ndarray], wrong: np.ndarray) -> str:
    """How well each detector finds the wrong tokens."""
    figure, ax = axes(3.0, 3.0)
    ax.plot([0, 1], [0, 1], color="#c9d0d8", lw=0.8)
    for name, doubt in doubts.items():
        order = np.argsort(-doubt, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(doubt[order])), len(order) - 1)
        hits, misses = np.cumsum(wrong[order])[ends], np.cumsum(~wrong[order])[ends]
        style: dict[str, Any] = {"color": "#8d99a6", "ls": ":"} if name == "position" else {}
        ax.plot(np.append(0, misses / max(1, misses[-1])), np.append(0, hits / max(1, hits[-1])), lw=1.5, label=name, **style)
    ax.set(xlabel="right tokens marked", ylabel="wrong tokens marked", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(loc="lower right", fontsize=8)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def doubt_figure(name: str, doubt: np.ndarray, wrong: np.ndarray, threshold: float) -> str:
    """Distribution of one detector's doubt over right and wrong tokens."""
    figure, ax = axes(3.2, 3.0)
    low, high = np.quantile(doubt, [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-6), 40)
    for part, colour, label in ((~wrong, SEEN, "right"), (wrong, WRONG, "wrong")):
        if part.any():
            clipped, share = np.clip(doubt[part], edges[0], edges[-1]), np.full(part.sum(), 100 / part.sum())
            ax.hist(clipped, bins=edges.tolist(), weights=share, color=colour, alpha=0.6, label=label)
    ax.axvline(threshold, color=INK, lw=0.9, ls="--")
    ax.set(xlabel=f"doubt ({name}), nats", ylabel="% of right, of wrong tokens")
    ax.legend(loc="upper right", fontsize=8)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def router_figure(shares: Mapping[str, Sequence[float]]) -> str:
    """Share of the tokens each expert takes, a row a layer; even shares are pale."""
    table = np.array([100 * np.array(row) for row in shares.values()])
    figure, ax = axes(0.9 + 0.62 * table.shape[1], 0.75 + 0.3 * table.shape[0])
    even = 100 / table.shape[1]
    ax.imshow(table, cmap="RdBu_r", vmin=0, vmax=2 * even, aspect="auto", alpha=0.75)
    for (y, x), value in np.ndenumerate(table):
        ax.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8)
    ax.set_yticks(range(len(shares)), [name.replace("layer", "layer ") for name in shares])
    ax.set_xticks(range(table.shape[1]))
    ax.set(xlabel=f"expert  (even: {even:.0f} %)")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def gates_figure(curves: Curves) -> str:
    """tanh of each gate through the stages: 0 = the decoder does not see."""
    figure, ax = axes(4.4, 2.6)
    lines: dict[str, Curve] = {}
    start = 0.0
    for names in curves.values():
        gates = {name: curve for name, curve in names.items() if name.startswith("gate/")}
        for name, curve in gates.items():
            line = lines.setdefault(name.removeprefix("gate/"), Curve())
            line.tokens.extend((start + np.array(curve.tokens)) / 1e6)
            line.values.extend(curve.values)
        start += max((curve.tokens[-1] for curve in names.values()), default=0.0)
    for index, (name, line) in enumerate(lines.items()):
        layer, _, part = name.partition("/")
        colour = CYCLE[index // 2 % len(CYCLE)]
        ax.plot(
            line.tokens, line.values, color=colour, ls="-" if part == "attention" else "--", lw=1.4, label=f"{layer} {part}"
        )
    ax.axhline(0, color="#c9d0d8", lw=0.8, zorder=0)
    ax.set(xlabel="million tokens", ylabel="tanh(gate)")
    ax.legend(fontsize=7, ncols=2)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def coordinates_figure(changes: Mapping[str, Mapping[int, Mapping[int, float]]]) -> Figure:
    """Change of each kind's outputs against width, a panel a kind, a line a step: kind → step → width → change."""
    columns = min(4, len(changes))
    lines = -(-len(changes) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.1 * lines), layout="constrained")
    for place, (kind, steps) in enumerate(changes.items(), 1):
        ax = figure.add_subplot(lines, columns, place)
        for step, by_width in steps.items():
            shade = 0.25 + 0.75 * step / max(steps)
            ax.plot(list(by_width), list(by_width.values()), color=SEEN, alpha=shade, lw=1.2, marker="o", ms=2.5)
        ax.set(xscale="log", yscale="log", title=kind, xlabel="width", ylabel="mean |change|")
        ax.set_xticks(sorted({w for by_width in steps.values() for w in by_width}))
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:.0f}")
    return figure


def picture(data: bytes, side: int = 256) -> str:
    """A chart, enlarged without smoothing so that small ones can be judged."""
    image = open_image(data)
    scale = max(1, side // max(image.size))
    return _png(image.resize((image.width * scale, image.height * scale), PIL.Image.Resampling.NEAREST))


def heat_map(data: bytes, weights: Sequence[Sequence[float]], side: int = 256) -> str:
    """The picture in grey under a map of where the model looked (letterboxed to a square, as the model sees it).

    `weights` [g, g] sum to 1; the scale is the same for all pictures: brightest at `FULL` times an even share.
    """
    image, table = open_image(data), np.asarray(weights, dtype=np.float64)
    scale = side / max(image.size)
    small = image.convert("L").convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = PIL.Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    strength = np.clip(table * table.size / FULL, 0, 1)
    grown = PIL.Image.fromarray((255 * strength).astype(np.uint8)).resize((side, side), PIL.Image.Resampling.BICUBIC)
    heat = np.asarray(grown, dtype=np.float64) / 255
    colours = matplotlib.colormaps["inferno"](0.25 + 0.7 * heat)[..., :3] * 255
    alpha = 0.15 + 0.7 * heat[..., None]
    return _png(PIL.Image.fromarray((np.asarray(square) * (1 - alpha) + colours * alpha).astype(np.uint8)))


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png(image: PIL.Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
