"""`python -m eval.run --checkpoint RUN --task NAME`: evaluate; the same command goes on after an interruption.

`--task charts` with neither --cot nor --blank runs the whole chart suite (with the picture, blanked, rationale first,
hallucination); everything else is one arm of one task.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import vlm
from eval import cli, tasks
from eval.chart_suite import evaluate_charts
from eval.evaluate import evaluate
from eval.prompting import COT_MODES, Arm
from eval.tasks.charts import COUNT


def main() -> None:
    args = _arguments()
    task = tasks.get(args.task)
    suite = task.name == "charts" and args.cot is None and not args.blank and args.shard == (0, 1)
    items = None if suite else task.items(args.data, args.split, args.limit)  # a missing download is said before a model is loaded
    model, processor = vlm.load(args.checkpoint, device=args.device, dtype=torch.float32)
    out = args.out or args.checkpoint / "eval" / _name(args, task)
    if suite:
        count = COUNT if args.limit is None else args.limit
        summary = evaluate_charts(model, processor, out, count=count, batch_size=args.batch_size, replace=False)
    else:
        arm = Arm(args.cot or "none", args.blank)
        summary = evaluate(model, processor, task, items, out, arm=arm, shard=args.shard, batch_size=args.batch_size)
    print(json.dumps(summary, indent=2))
    print(f"records and summary: {out}")


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
    parser.add_argument("--cot", choices=COT_MODES, help="none: answer directly (default); single: rationale first, in one pass")
    parser.add_argument("--blank", action="store_true", help="control: every picture replaced by white")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first N items")
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="i/n", help="every n-th item from the i-th on, i from 0")
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
