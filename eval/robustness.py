"""Does an answer survive what should not matter, and follow what should? Charts in other pictures, and with other data.

Perturbed pictures (`datasets.charts.perturb`: colour, font, size, JPEG, renderer) show the same table: accuracy under each, and
its paired difference to the clean picture. Perturbed data (`datasets.charts.counterfactual`) show other values, one to three,
and keep the question: of the answers, how many follow the new picture, how many stay with the old answer, and how many are
something else. Charts that could not be asked are left out.

    OUT/summary.json   clean/ colour/ jpeg-20/ … data/   records.jsonl of each
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.charts.counterfactual import changed_item
from datasets.charts.held_out import ChartItem, held_out_items
from datasets.charts.perturb import PERTURBATIONS, perturbation
from datasets.charts.profile import Profile, make_profile
from eval import cli, metrics, stats
from eval.arms import make
from eval.engine import Budget
from eval.evaluate import Running, collect
from eval.flags import positive
from eval.models.own import Own
from eval.store import write_json
from eval.summarize import accuracy, paired
from eval.tasks import Item
from eval.tasks.charts import TASK, perturbed, to_items

Records = Sequence[dict]
Ask = Callable[[Sequence[Item], Path], Records]  # items and a folder for their records → one record an item, in order
DATA = "data"
DIFFERENCE = "paired difference of relaxed accuracy to the clean picture"


def evaluate_robustness(
    ask: Ask,
    out: Path,
    *,
    seed: int,
    count: int,
    profile: str | Profile | Mapping = "sight",
    names: Sequence[str] | None = None,
) -> dict:
    """`ask` answers the clean charts, then those of each perturbation; writes and returns the summary.

    `names` are perturbations and `data`; by default all that apply to the profile. Raises `ValueError` for one that does not.
    """
    chosen = make_profile(profile)
    names = default_names(chosen) if names is None else tuple(names)
    _check(names, chosen)
    charts = held_out_items(seed, count, chosen)
    clean = ask(to_items(charts), out / "clean")
    summary: dict[str, Any] = {
        "task": "charts_robustness",
        "profile": chosen.name,
        "seed": seed,
        "clean": accuracy(TASK, clean),
    }
    for name in names:
        if name == DATA:
            summary[DATA] = _data(ask, out / DATA, charts, clean, chosen)
        else:
            other = ask(perturbed(charts, name), out / name.replace(":", "-"))
            summary[name] = {"accuracy": accuracy(TASK, other), "difference": paired(other, clean, DIFFERENCE)}
    write_json(out / "summary.json", summary)
    return summary


def default_names(profile: Profile) -> tuple[str, ...]:
    return (*(name for name in PERTURBATIONS if profile.text or name != "font"), DATA)


def _check(names: Sequence[str], profile: Profile) -> None:
    """Every mistake in a name is said before anything is asked."""
    for name in names:
        if name.partition(":")[0] == "font" and not profile.text:
            raise ValueError(f"perturbation {name!r} needs printed names, and profile {profile.name!r} prints none")
        if name != DATA:
            perturbation(name)


def _data(ask: Ask, out: Path, charts: Sequence[ChartItem], clean: Records, profile: Profile) -> dict:
    pairs = [(i, changed) for i, chart in enumerate(charts) if (changed := changed_item(chart, profile.held_out_share))]
    records = ask(to_items([changed for _, changed in pairs]), out)
    return following(records, [clean[i] for i, _ in pairs])


def following(changed: Records, clean: Records) -> dict[str, Any]:
    """Where answers to changed charts go: `follows`, `stays` and `other` add up to 1. `of_right` counts only charts whose clean
    answer was right (the others have nothing to follow from); `unchanged_text` is the share of outputs equal to the clean one.
    """
    pairs = [(new, old) for new, old in zip(changed, clean, strict=True) if "score" in new and "score" in old]
    rows = [_went(new, old) for new, old in pairs]
    images = [old["image"] for _, old in pairs]
    right = [i for i, (_, old) in enumerate(pairs) if old["score"]]
    same = [float(new["prediction"] == old["prediction"]) for new, old in pairs]
    figures: dict[str, Any] = _ways(rows, images)
    figures["of_right"] = _ways([rows[i] for i in right], [images[i] for i in right])
    figures["unchanged"] = stats.share(same, images, variant="share of changed charts with the answer to the clean one")
    return figures


def _went(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    if new["score"]:
        return "follows"
    answer, metric = new["prediction"], metrics.get(TASK.metric)
    return "stays" if answer is not None and metric.score(answer, old["references"], {}) else "other"


def _ways(rows: Sequence[str], images: Sequence[str]) -> dict[str, stats.Figure]:
    variant = "share of charts with changed data"
    return {
        way: stats.share([float(row == way) for row in rows], images, variant=variant) for way in ("follows", "stays", "other")
    }


def main() -> None:
    args = _arguments()
    from eval.run import chart_settings  # the charts that the run was evaluated on

    own = chart_settings(args.checkpoint)
    count, names = args.limit or own["count"], None if args.perturb is None else args.perturb.split(",")
    _check(names or (), make_profile(own["profile"]))
    model = Own.load(args.checkpoint, device=cli.device(args.device))
    ask = partial(collect, model, TASK, arm=make(TASK), running=Running(Budget(args.batch_size)))
    out = args.out or args.checkpoint / "eval" / ("robustness" if args.limit is None else f"robustness-limit{args.limit}")
    summary = evaluate_robustness(ask, out, seed=own["seed"], count=count, profile=own["profile"], names=names)
    for line in lines(summary):
        print(line)
    print(f"records and summary: {out}")


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary as a plain table."""
    shown = [f"{'picture':<16}accuracy  difference to the clean picture", f"{'clean':<16}{_percent(summary['clean'])}"]
    for name, figures in summary.items():
        if isinstance(figures, Mapping) and "difference" in figures:
            interval = figures["difference"]["interval"]
            between = f"{100 * figures['difference']['value']:+.1f}" if figures["difference"]["n"] else "–"
            between += f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
            shown.append(f"{name:<16}{_percent(figures['accuracy'])}    {between}")
    if DATA in summary:
        ways = ", ".join(f"{way} {_percent(summary[DATA][way])}" for way in ("follows", "stays", "other"))
        shown.append(f"data changed ({summary[DATA]['follows']['n']} charts): {ways}")
    return shown


def _percent(figure: stats.Figure) -> str:
    return "–" if figure["value"] is None else f"{100 * figure['value']:.1f} %"


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.robustness",
        "Held-out charts in other pictures and with other data: does the answer stay, does it follow?",
        "python -m eval.robustness --checkpoint runs/vlm --perturb colour,jpeg:10,renderer,data --limit 500",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run or model directory")
    parser.add_argument(
        "--perturb", metavar="NAMES", help=f"of {', '.join(PERTURBATIONS)} (NAME:LEVEL sets its level) and {DATA}; default: all"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N charts")
    parser.add_argument("--batch-size", type=positive, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/eval/robustness")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main, after_interrupt=": what was finished is kept, the same command goes on")
