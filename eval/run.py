"""`python -m eval.run --checkpoint RUN --task NAME`: evaluate; the same command goes on after an interruption.

`--task charts` with neither --cot nor --blank runs the whole chart suite (with the picture, blanked, rationale first,
hallucination); everything else is one arm of one task.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml

import vlm
from eval import cli, tasks
from eval.chart_suite import evaluate_charts
from eval.evaluate import evaluate
from eval.prompting import COT_MODES, Arm
from eval.table import format_summary
from eval.tasks import charts


def main() -> None:
    args = _arguments()
    task = tasks.get(args.task)
    if task.name == "charts" and args.data is not None:
        raise ValueError(f"task charts generates its items and reads no --data, got {str(args.data)!r}")
    own = chart_settings(args.checkpoint) if task.name == "charts" else {}
    if args.limit is not None and own:
        own |= {"count": args.limit}
    suite = bool(own) and args.cot is None and not args.blank and args.shard == (0, 1)
    if not suite:  # missing data is said before a model is loaded
        items = (
            charts.items(own["seed"], own["count"], own["profile"]) if own else task.items(args.data, args.split, args.limit)
        )
    model, processor = vlm.load(args.checkpoint, device=cli.device(args.device), dtype=torch.float32)
    out = args.out or args.checkpoint / "eval" / _name(args, task)
    if suite:
        summary = evaluate_charts(model, processor, out, **own, batch_size=args.batch_size, replace=False)
        print(format_summary(summary))
    else:
        arm = Arm(args.cot or "none", args.blank)
        summary = evaluate(model, processor, task, items, out, arm=arm, shard=args.shard, batch_size=args.batch_size)
        print(json.dumps(summary, indent=2))
    print(f"records and summary: {out}")


def chart_settings(checkpoint: Path) -> dict:
    """The held-out charts that the run itself is evaluated on, from its `config.yaml`; the defaults where there is none."""
    path = checkpoint / "config.yaml"
    own = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("eval", {}) if path.is_file() else {}
    names = {"seed": "seed", "count": "charts", "cot_count": "reasoned", "profile": "profile"}
    defaults = {"seed": charts.SEED, "count": charts.COUNT, "cot_count": 500, "profile": "sight"}
    return {name: own.get(key, defaults[name]) for name, key in names.items()}


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.run",
        "Evaluate a model on a task; resumable, every record kept.",
        "python -m eval.run --checkpoint runs/vlm --task chartqa --data ../shared/data/chartqa --split val --cot single",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run or model directory")
    parser.add_argument("--task", required=True, metavar="NAME", help=f"one of: {', '.join(tasks.names())}")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the task's official download")
    parser.add_argument("--split", help="default: the task's own")
    parser.add_argument(
        "--cot", choices=COT_MODES, help="none: answer directly (default); single: rationale first, in one pass"
    )
    parser.add_argument("--blank", action="store_true", help="control: every picture replaced by white")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first N items")
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="i/n", help="every n-th item from the i-th on, i from 0"
    )
    parser.add_argument("--batch-size", type=_positive, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/eval/TASK, the other choices in its name")
    return parser.parse_args()


def _name(args: argparse.Namespace, task: tasks.Task) -> str:
    parts = [task.name, args.split, None if args.cot in (None, "none") else args.cot]
    parts += ["direct" if args.cot == "none" and task.name == "charts" else None, "blank" if args.blank else None]
    return "-".join(part for part in (*parts, f"limit{args.limit}" if args.limit else None) if part)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"i/n with 0 <= i < n, not {text!r}")
    return int(index), int(count)


if __name__ == "__main__":
    cli.run(main, after_interrupt=": what was finished is kept, the same command goes on")
