"""`python -m eval.run --checkpoint RUN --task NAME[,NAME…]`: evaluate; the same command goes on after an interruption.

`--task charts` with neither --cot nor --blank runs the whole chart suite (with the picture, blanked, rationale first,
hallucination); everything else is one arm of a task. Several tasks are written one by one; one that fails loses no other.

Several GPUs: `torchrun --nproc-per-node 8 -m eval.run --device cuda …`, each process on its own; they share the items as they
go, the first one writes the summary. `--shard i/n` divides the items by hand instead, over machines that share a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
import yaml

from eval import arm_flags, cli, flags, models, tasks
from eval.arms import Arm
from eval.cache import Cached
from eval.chart_suite import evaluate_charts
from eval.compare import compare, shown
from eval.conventions import default_for
from eval.engine import Budget
from eval.evaluate import Running, evaluate
from eval.models.own import Own
from eval.reporting import report_charts, report_directory
from eval.several import run_several, several_lines
from eval.summarize import summary_lines
from eval.table import format_summary
from eval.tasks import charts
from eval.work import Ranks
from vlm.model import VLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    args = _arguments()
    if args.task == ("list",):
        print(tasks.table())
        return
    if args.compare:
        print(json.dumps(shown(compare(*args.compare)), indent=2))
        return
    chosen = [tasks.get(name) for name in args.task]
    run_all([(task.name, partial(_run_task, args, task, len(chosen) > 1)) for task in chosen])


def run_all(tasks: list[tuple[str, Callable[[], None]]]) -> None:
    """Run each, whatever becomes of the others; at the end those that failed are named.

    Raises `ValueError` when a user can mend them all, exits with 1 otherwise.
    """
    if len(tasks) == 1:
        tasks[0][1]()
        return
    mistakes, crashed = [], []
    for name, run in tasks:
        try:
            run()
        except models.UnusableError:
            raise
        except (ValueError, OSError) as error:
            mistakes.append(f"{name}: {error}")
        except Exception:
            traceback.print_exc()
            crashed.append(f"{name}: see above")
    failed = f"{len(mistakes) + len(crashed)} of {len(tasks)} tasks failed: {'; '.join(mistakes + crashed)}"
    if crashed:
        print(f"error: {failed}", file=sys.stderr)
        sys.exit(1)
    if mistakes:
        raise ValueError(failed)


def _run_task(args: argparse.Namespace, task: tasks.Task, several: bool) -> None:
    own = chart_settings(_path(args)) if task.name == "charts" else {}
    if own and args.data is not None and not several:
        raise ValueError(f"task charts generates its items and reads no --data, got {str(args.data)!r}")
    if args.limit is not None and own:
        own |= {"count": args.limit}
    if own and Ranks.from_environment().rank == 0:
        _say_charts(own)
    out = (args.out / task.name if several else args.out) if args.out else default_out(args) / _name(args, task)
    running = _running(args)
    if own and _suite(args):
        model = _model(args.model, _device(args), args.precision)
        if not isinstance(model, Own) or not isinstance(model.model, VLM):
            raise ValueError(f"the chart suite needs a model that sees, {args.model} is text alone: give --cot none")
        summary = evaluate_charts(model.model, model.processor, out, **own, running=running)
        if summary is not None:
            print(format_summary(summary))
            shown = charts.items(own["seed"], own["count"], own["profile"])
            print(f"report: {report_charts(out, summary, shown, args.model)}")
    else:
        items = _items(args, task, own, several)  # missing data is said before a model is loaded
        model = _model(args.model, _device(args), args.precision)
        cached = contextlib.closing(Cached(model, args.cache)) if args.cache else contextlib.nullcontext(model)
        arms = arm_flags.chosen_arms(args, task, items, model, partial(_support, args, task, own), default_out(args))
        with cached as asked:
            summary = run_several(partial(_evaluate, asked, task, items, running), arms, out)
        if summary is not None:
            print("\n".join(several_lines(summary, summary_lines)))
            print(f"report: {report_directory(out, summary, items, args.model)}")
    if running.ranks.rank == 0:
        print(f"records and summary: {out}", flush=True)


def _evaluate(
    model: models.Model, task: tasks.Task, items: Sequence[tasks.Item], running: Running, arm: Arm, out: Path
) -> dict | None:
    return evaluate(model, task, items, out, arm=arm, running=running)


def _support(args: argparse.Namespace, task: tasks.Task, own: dict) -> Sequence[tasks.Item]:
    """The items that examples are chosen from. Raises `ValueError` for a task that has no such split."""
    if own:
        return charts.examples(own["seed"], args.support_pool or charts.COUNT, own["profile"])
    if args.support_split is None and "train" not in task.splits:
        raise ValueError(f"task {task.name} has no split train: --support-split takes one of {', '.join(task.splits)}")
    return task.items(args.data, args.support_split or "train")


def _suite(args: argparse.Namespace) -> bool:
    """Is it the whole chart suite, with nothing chosen that only one arm can have?"""
    one_arm = args.cot is not None or args.blank or args.shard != (0, 1) or args.predict_only or args.sample_id or args.cache
    chosen = (args.max_new_tokens, args.temperature, args.seed or None)
    return not one_arm and chosen == (None,) * 3 and arm_flags.is_plain(args) and ":" not in args.model


def _items(args: argparse.Namespace, task: tasks.Task, own: dict, several: bool) -> list[tasks.Item]:
    """Raises `ValueError` for missing data and for ids that are not there."""
    if own:
        items = charts.items(own["seed"], own["count"], own["profile"])
    else:
        folder = args.data / task.name if several and args.data and (args.data / task.name).is_dir() else args.data
        items = task.items(folder, args.split, None if args.sample_id else args.limit)
    if not args.sample_id:
        return items
    by_id = {item.id: item for item in items}
    if unknown := [key for key in args.sample_id if key not in by_id]:
        raise cli.nearest(f"item of {task.name}", unknown[0], by_id)
    return [by_id[key] for key in args.sample_id][: args.limit]


@cache
def _model(spec: str, device: torch.device, precision: str) -> models.Model:
    return models.open(spec, device=device, dtype=DTYPES[precision])


def _device(args: argparse.Namespace) -> torch.device:
    """One GPU a process."""
    ranks = Ranks.from_environment()
    return cli.device(f"cuda:{ranks.local}" if args.device == "cuda" and ranks.world > 1 else args.device)


def _running(args: argparse.Namespace) -> Running:
    return Running(
        Budget(args.batch_size, args.batch_tokens),
        args.shard,
        Ranks.from_environment(),
        replace=args.replace,
        scored=not args.predict_only,
        max_errors=args.max_errors,
        patience=args.patience,
    )


def chart_settings(checkpoint: Path) -> dict:
    """The held-out charts that the run itself is evaluated on, from its `config.yaml` (for `RUN/model` that of RUN); the
    defaults where there is none."""
    folders = (checkpoint, checkpoint.resolve().parent) if checkpoint.resolve().name == "model" else (checkpoint,)
    path = next((folder / "config.yaml" for folder in folders if (folder / "config.yaml").is_file()), None)
    own = {} if path is None else (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("eval", {})
    names = {"seed": "seed", "count": "charts", "cot_count": "reasoned", "profile": "profile"}
    defaults = {"seed": charts.SEED, "count": charts.COUNT, "cot_count": 500, "profile": "sight"}
    return {name: own.get(key, defaults[name]) for name, key in names.items()}


def _say_charts(own: dict) -> None:
    """Which charts are asked: they differ with the model's own configuration."""
    profile = own["profile"] if isinstance(own["profile"], str) else own["profile"].get("name", "a profile of its own")
    print(f"held-out charts: {own['count']} of profile {profile}, seed {own['seed']}", flush=True)


def _path(args: argparse.Namespace) -> Path:
    return Path(args.model)


def default_out(args: argparse.Namespace) -> Path:
    """`RUN/eval`; of a model that is no run, `runs/eval/MODEL`."""
    name = re.sub(r"[^\w.-]+", "-", args.model).strip("-.")
    return _path(args) / "eval" if _path(args).is_dir() else Path("runs/eval") / name


def _name(args: argparse.Namespace, task: tasks.Task) -> str:
    parts = [task.name, args.split, *arm_flags.name_parts(args)]
    direct = task.name == "charts" and not _suite(args) and args.cot in (None, ("none",)) and not args.blank
    parts += ["direct" if direct else None]
    parts += ["blank" if args.blank else None, f"limit{args.limit}" if args.limit else None]
    parts += ["chosen" if args.sample_id else None]
    numbers = (("tokens", args.max_new_tokens), ("t", args.temperature))
    parts += [f"{flag}{value:g}" for flag, value in numbers if value is not None]
    parts += [f"seed{args.seed}" if args.seed else None, args.precision.replace("float32", "")]
    return "-".join(part for part in parts if part)


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.run",
        "Evaluate a model on tasks; resumable, every record kept.",
        "python -m eval.run --checkpoint runs/vlm --task chartqa --data ../shared/data/chartqa --split val --cot single",
    )
    parser.epilog = f"{parser.epilog}\n\ntasks:\n{textwrap.indent(tasks.table(), '  ')}"
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", dest="model", metavar="RUN", help="run or model directory")
    which.add_argument("--model", metavar="SPEC", help="another model: hf:PATH, or endpoint:URL#MODEL (key: $ENDPOINT_API_KEY)")
    which.add_argument("--compare", nargs=2, type=Path, metavar="OUT", help="as eval.compare")
    add(
        "--task",
        type=flags.names,
        default=(),
        metavar="NAME[,NAME…]",
        help="tasks, or files that declare one (docs/tasks.md); list: print them",
    )
    add("--data", type=Path, metavar="DIR", help="the task's official download; of several tasks, DIR/TASK where there is one")
    add("--split", help="default: the task's own")
    add("--blank", action="store_true", help="control: every picture replaced by white")
    add("--max-new-tokens", type=flags.positive, metavar="N", help="default: the task's own")
    add("--temperature", type=flags.number, metavar="T", help="0: greedy (default; of self-consistency 0.7)")
    add("--seed", type=int, default=0, help="of what is drawn at a temperature")
    add("--limit", type=flags.positive, metavar="N", help="the first N items")
    add("--sample-id", type=flags.names, default=(), metavar="ID[,ID…]", help="these items alone")
    add("--shard", type=flags.shard, default=(0, 1), metavar="i/n", help="every n-th item from the i-th on, i from 0")
    add("--batch-size", type=flags.positive, default=128, metavar="N", help="texts written at once, at most (default: 128)")
    most = "prompts, pictures (256 each) and room to write of a batch, at most (default: %(default)s)"
    add("--batch-tokens", type=flags.positive, default=Budget().tokens, metavar="N", help=most)
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    add("--precision", choices=DTYPES, default="float32")
    add("--cache", type=Path, metavar="DIR", help="keep what was written, for other evaluations of the same prompts")
    add("--predict-only", action="store_true", help="records without scores; eval.score reads them")
    few = "stop when more than this share of the items, and more than 10, cannot be asked (default: %(default)g)"
    add("--max-errors", type=flags.share, default=Running().max_errors, metavar="SHARE", help=few)
    wait = "how long the first of several processes waits for a new record of the others (default: %(default)g)"
    add("--patience", type=flags.number, default=Running().patience, metavar="SECONDS", help=wait)
    add("--replace", action="store_true", help="drop records of another model or other settings that lie in --out")
    add("--out", type=Path, metavar="DIR", help="default: RUN/eval/TASK, other choices in its name; of several tasks: DIR/TASK")
    arm_flags.add_flags(parser)
    args = parser.parse_args()
    args.convention = args.convention or default_for(args.model or "")
    if not (args.model or args.compare or args.task == ("list",)):
        parser.error("one of the arguments --checkpoint --model --compare is required")
    if not args.compare and not args.task:
        parser.error("the following arguments are required: --task")
    return args


if __name__ == "__main__":
    cli.run(main, after_interrupt=": what was finished is kept, the same command goes on")
