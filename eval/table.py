"""The plain-text table at the end of training: what the model can see, what its decoder knew, and how it stands inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.curves import last_values, read_curves
from eval.stats import Figure

MISSING = "–"


def format_run(run_dir: Path) -> str:
    """The table of a run directory; parts that were not evaluated are left out."""
    curves, charts = read_curves(run_dir), read_summary(Path(run_dir) / "eval" / "charts")
    router, gates = last_values(curves, "router/"), last_values(curves, "gate/")
    return format_summary(charts, tables=read_tables(run_dir, list(curves)), router=router, gates=gates)


def read_tables(run_dir: Path, stages: list[str]) -> dict[str, dict]:
    """Summaries of the text decoder's evaluations, `RUN/eval/tables-STAGE`, by stage in the stages' order."""
    found = {
        path.name.removeprefix("tables-"): read_summary(path) for path in sorted((Path(run_dir) / "eval").glob("tables-*"))
    }
    order = [stage for stage in stages if stage in found] + [stage for stage in found if stage not in stages]
    return {stage: found[stage] for stage in order if found[stage]}


def read_summary(directory: Path) -> dict:
    """`summary.json` of an evaluation, empty when there is none."""
    path = Path(directory) / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def format_summary(
    summary: Mapping,
    *,
    tables: Mapping[str, Mapping] | None = None,
    router: Mapping[str, float] | None = None,
    gates: Mapping[str, float] | None = None,
) -> str:
    """`summary`: of `evaluate_charts`; `tables`: of `evaluate_tables`, by stage; `router`, `gates`: last values by name."""
    parts = [_charts(summary), _reasoning(summary), _tables(tables or {}), _router(router or {}), _gates(gates or {})]
    return "\n\n".join("\n".join(part) for part in parts if part)


def share_text(figure: Figure | None) -> str:
    """`63.2 % [61.0, 65.3]`"""
    if not figure or figure["value"] is None:
        return MISSING
    bounds = figure["interval"]
    return f"{100 * figure['value']:.1f} %" + (f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else "")


def auroc_text(figure: Figure) -> str:
    if figure["value"] is None:
        return MISSING
    bounds = figure["interval"]
    return f"{figure['value']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def _rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _charts(summary: Mapping) -> list[str]:
    if "accuracy" not in summary:
        return []
    rows = [("all", share_text(summary["accuracy"]), share_text(summary["accuracy_blank"]), str(summary["accuracy"]["n"]))]
    for tag in ("kind", "type"):
        blank = summary[f"by_{tag}_blank"]
        rows += [(k, share_text(f), share_text(blank.get(k)), str(f["n"])) for k, f in summary[f"by_{tag}"].items()]
    header = ("held-out charts", "with image", "blanked", "questions")
    return [*_rows(header, rows), f"(relaxed_accuracy:{summary['accuracy']['variant']}, 95 % intervals)"]


def _reasoning(summary: Mapping) -> list[str]:
    if "chain_of_thought" not in summary:
        return []
    cot, found = summary["chain_of_thought"], summary["hallucination"]
    lines = [
        f"rationale first     {share_text(cot['single'])}  (directly, same {cot['single']['n']}: {share_text(cot['direct'])})"
    ]
    lines += [
        f"steps that agree    {share_text(cot['steps_correct'])}  with the table, of {cot['steps_correct']['n']} checkable"
    ]
    lines += [f"without an answer   {share_text(cot['unparsed_single'])}"]
    lines += [f"detection AUROC     {name:<9} {auroc_text(figure)}" for name, figure in found["auroc"].items()]
    return [*lines, f"wrong tokens        {share_text(found['base_rate'])}  of {found['base_rate']['n']} judged (base rate)"]


def _tables(tables: Mapping[str, Mapping]) -> list[str]:
    if not tables:
        return []
    kinds = sorted({kind for summary in tables.values() for kind in summary["by_kind"]})
    rows = [("all", *(share_text(summary["relaxed_accuracy"]) for summary in tables.values()))]
    rows += [(kind, *(share_text(summary["by_kind"].get(kind)) for summary in tables.values())) for kind in kinds]
    return _rows(("tables in words, after", *tables), rows)


def _router(router: Mapping[str, float]) -> list[str]:
    layers: dict[str, list[float]] = {}
    for name, value in router.items():
        layer, _, rest = name.partition("/")
        if rest.startswith("expert") and rest.endswith("_share"):
            layers.setdefault(layer, []).append(value)
    lines = [f"  {layer:<8} {' '.join(f'{100 * v:5.1f}' for v in shares)}" for layer, shares in layers.items()]
    return ["router: share of tokens by expert, %", *lines] if lines else []


def _gates(gates: Mapping[str, float]) -> list[str]:
    return ["gates, tanh:", *(f"  {name:<20} {value:+.3f}" for name, value in gates.items())] if gates else []
