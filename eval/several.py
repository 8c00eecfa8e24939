"""Several arms on the same items, or one arm with several draws of its examples: each an evaluation of its own, then compared.

    OUT/ARM/…, OUT/support-seed-S/…, OUT/ARM/support-seed-S/…     an evaluation each
    OUT/summary.json    `arms`: each arm's figures, its unparsed outputs, and the paired difference from the first arm with its
                        interval (Student's over pictures) and McNemar's exact p; `support_seeds`: mean and spread

The spread over seeds is the sample standard deviation of a figure: how much it says depends on the examples drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.arms import Arm
from eval.compare import compare, shown
from eval.store import RECORDS, read_records, write_json
from eval.table import share_text

Evaluate = Callable[[Arm, Path], dict | None]


def run_several(evaluate: Evaluate, arms: Mapping[str, Mapping[int, Arm]], out: Path) -> dict | None:
    """Summary of all; that of the evaluation itself where there is just one. `None` in a process that writes no summary."""
    found: dict[str, dict | None] = {}
    for name, seeds in arms.items():
        folder = out / name if len(arms) > 1 else out
        found[name] = _run_seeds(evaluate, seeds, folder)
    first = next(iter(found))
    if len(found) == 1 or any(summary is None for summary in found.values()):
        return found[first]
    summary: dict[str, Any] = {key: found[first][key] for key in ("task", "metric")} | {"arms": found}
    for name in list(found)[1:]:
        folders = {seed: [_folder(out / arm, arms[arm], seed) for arm in (name, first)] for seed in arms[first]}
        versus = {str(seed): shown(compare(*pair)) for seed, pair in folders.items() if all(map(_is_scored, pair))}
        if versus:
            one = next(iter(versus.values()))
            summary["arms"][name] = {**found[name], f"against_{first}": one if len(folders) == 1 else {"support_seeds": versus}}
    write_json(out / "summary.json", summary)
    return summary


def _is_scored(folder: Path) -> bool:
    """With `--predict-only` there are no scores, and where shards are missing no whole records."""
    path = folder / RECORDS
    return path.is_file() and any("score" in record for record in read_records(path))


def _run_seeds(evaluate: Evaluate, seeds: Mapping[int, Arm], out: Path) -> dict | None:
    if len(seeds) == 1:
        return evaluate(next(iter(seeds.values())), out)
    summaries = {seed: evaluate(arm, _seed_folder(out, seed)) for seed, arm in seeds.items()}
    if any(summary is None for summary in summaries.values()):
        return None
    first = next(iter(summaries.values()))
    own = {key: value for key, value in first.items() if not _is_figure(value) and not key.startswith("by_")}
    summary = {**own, "support_seeds": spread(summaries)}
    summary.pop("support_seed", None)
    write_json(out / "summary.json", summary)
    return summary


def _seed_folder(out: Path, seed: int) -> Path:
    return out / f"support-seed-{seed}"


def _folder(out: Path, seeds: Mapping[int, Arm], seed: int) -> Path:
    return out if len(seeds) == 1 else _seed_folder(out, seed)


def spread(summaries: Mapping[int, Mapping]) -> dict[str, dict]:
    """Every figure that all summaries have: its mean over the seeds, `spread` (sample standard deviation), and each seed's."""
    figures: dict[str, dict] = {}
    for name, figure in next(iter(summaries.values())).items():
        if _is_figure(figure):
            values = [summary[name]["value"] for summary in summaries.values() if name in summary]
            if len(values) == len(summaries) and None not in values:
                each = dict(zip(map(str, summaries), values, strict=True))
                figures[name] = {"value": statistics.fmean(values), "spread": statistics.stdev(values), "n": figure["n"]}
                figures[name] |= {"variant": figure["variant"], "seeds": each}
    return figures


def _is_figure(value: object) -> bool:
    return isinstance(value, Mapping) and "interval" in value


def several_lines(summary: Mapping, lines: Callable[[Mapping], Sequence[str]]) -> list[str]:
    """For the terminal; `lines` are those of one evaluation's summary."""
    if "support_seeds" in summary:
        return [f"{summary['task']}  {summary['metric']}", *_seed_lines(summary)]
    if "arms" not in summary:
        return list(lines(summary))
    text, first = [f"{summary['task']}  {summary['metric']}"], next(iter(summary["arms"]))
    for name, arm in summary["arms"].items():
        text += [f"--cot {name}", *(_seed_lines(arm) if "support_seeds" in arm else _figure_lines(arm))]
        versus = arm.get(f"against_{first}", {})
        for seed, one in versus.get("support_seeds", {"": versus} if versus else {}).items():
            text.append(f"  {f'minus {first}' + (f', seed {seed}' if seed else ''):<28} {_versus(one)}")
    return text


def _figure_lines(arm: Mapping) -> list[str]:
    """An arm's figures, without their breakdown."""
    figures = ((name, figure) for name, figure in arm.items() if _is_figure(figure))
    return [f"  {name:<28} {share_text(figure):<24} n {figure['n']:<7} {figure['variant']}" for name, figure in figures]


def _versus(versus: Mapping) -> str:
    flips = f"better in {versus['only_a_right']}, worse in {versus['only_b_right']}"
    return f"{share_text(versus['difference']):<24} {flips}, McNemar p {versus['mcnemar_p']:.3g}"


def _seed_lines(arm: Mapping) -> list[str]:
    figures = arm["support_seeds"].items()
    return [
        f"  {name:<28} {100 * f['value']:.1f} % ± {100 * f['spread']:.1f} over {len(f['seeds'])} seeds, n {f['n']}  "
        f"{f['variant']}"
        for name, f in figures
    ]
