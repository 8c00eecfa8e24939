"""`report.html` of a run: one file, no network, made from what lies in the run directory, as far as it is there.

Questions, answers and file names are other people's text: the template escapes everything, pictures are embedded as data URIs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
import numpy as np

from eval import figures
from eval.curves import Curves, last_values, read_curves
from eval.data_table import data_tables
from eval.hallucination.marking import Marking
from eval.speed_table import speed_tables
from eval.store import write_atomically
from eval.table import auroc_text, read_summary, read_tables, share_text

VIEWS = {"_share": "all tokens", "_share_seeing": "tokens that see an image", "_share_blind": "tokens that see none"}


def write_report(run_dir: Path) -> Path:
    """Write `RUN/report.html` and return its path."""
    run_dir = Path(run_dir)
    curves, charts = read_curves(run_dir), run_dir / "eval" / "charts"
    speed = read_curves(run_dir, "speed.csv")
    summary = read_summary(charts)
    content = {
        "name": run_dir.resolve().name,
        "summary": summary,
        "loss": figures.loss_figure(curves) if any("train/loss" in names for names in curves.values()) else None,
        "accuracy": figures.accuracy_figure(summary["by_kind"], summary["by_kind_blank"]) if "by_kind" in summary else None,
        "detection": _detection(charts / "reason" / "tokens.jsonl", summary.get("hallucination", {})),
        "tables": read_tables(run_dir, list(curves)),
        "data": data_tables(curves),
        "speed": speed_tables(curves, speed),
        "speeds": figures.speed_figure(speed) if speed else None,
        "router": _router(curves),
        "gates": figures.gates_figure(curves) if last_values(curves, "gate/") else None,
        "gallery": _gallery(charts / "gallery", Marking.of(summary.get("hallucination", {}))),
    }
    path = run_dir / "report.html"
    write_atomically(path, render("report.html.j2", content))
    return path


def render(template: str, content: Mapping) -> str:
    """A page of this folder's templates: everything in `content` is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"share": share_text, "auroc": auroc_text, "percent": _percent}
    return environment.get_template(template).render(content)


def _percent(figure: Mapping) -> str:
    return "–" if figure["value"] is None else f"{100 * figure['value']:.1f} %"


def _detection(path: Path, hallucination: Mapping) -> dict | None:
    """ROC of every detector and the distribution of the chosen one's doubt."""
    if not path.is_file() or hallucination.get("detector") is None:
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = np.array([w for row in rows for w in row["wrong"] if w is not None], dtype=bool)
    doubts = {
        name: np.array([d for row in rows for d, w in zip(row["doubt"][name], row["wrong"], strict=True) if w is not None])
        for name in hallucination["auroc"]
    }
    chosen = hallucination["detector"]
    histogram = figures.doubt_figure(chosen, doubts[chosen], wrong, hallucination["threshold"])
    return {"roc": figures.roc_figure(doubts, wrong), "histogram": histogram}


def _router(curves: Curves) -> dict[str, str]:
    """Balance over all tokens, and apart for those that see an image and those that do not."""
    shares = last_values(curves, "router/")
    found = {}
    for suffix, title in VIEWS.items():
        layers: dict[str, list[float]] = {}
        for name, value in shares.items():
            layer, _, rest = name.partition("/")
            if rest.startswith("expert") and rest.endswith(suffix):
                layers.setdefault(layer, []).append(value)
        if layers and len(layers[next(iter(layers))]) > 1:
            found[title] = figures.router_figure(layers)
    return found


def _gallery(folder: Path, marking: Marking | None) -> list[dict]:
    path = folder / "gallery.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for row in rows:
        data = (folder / Path(row["image"]).name).read_bytes()
        row["picture"], row["looked"] = figures.picture(data), figures.heat_map(data, row["map"])
        row["tokens"] = [
            {"text": text, "doubtful": marking is not None and marking.doubtful(text, doubt), "wrong": wrong is True}
            for text, doubt, wrong in row["tokens"]
        ]
    return rows
