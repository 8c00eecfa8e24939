"""`python -m eval.faithfulness --checkpoint RUN --task NAME`: is an answer read from the rationale before it?

Writes under --out: `records.jsonl` (a row an item, with what each test found), `summary.json`, `report.html` and the curve of
early answering as PNG and SVG. The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.charts.held_out import held_out_items
from datasets.charts.profile import make_profile
from eval import cli, flags, models, tasks
from eval.arms.settings import RATIONALE_TOKENS
from eval.cache import Cached
from eval.conventions import CONVENTIONS, default_for
from eval.engine import Budget
from eval.evaluate import Running, evaluate
from eval.faithfulness import TESTS, Case, cases, make
from eval.faithfulness.case import WINDOW
from eval.faithfulness.page import write_page
from eval.faithfulness.tests import chosen
from eval.run import DTYPES, chart_settings, default_out
from eval.store import RECORDS, read_records
from eval.summarize import summary_lines
from eval.tasks import charts
from eval.work import Ranks


def main() -> None:
    args = _arguments()
    task, tests = tasks.get(args.task), chosen(args.tests)
    tested = _cases(args, task)
    ranks = Ranks.from_environment()
    device = f"cuda:{ranks.local}" if args.device == "cuda" and ranks.world > 1 else args.device
    model: models.Model = models.open(args.model, device=cli.device(device), dtype=DTYPES[args.precision])
    model = Cached(model, args.cache) if args.cache else model
    arm = make(
        task, tested, model.length, tests, convention=args.convention, max_new_tokens=args.max_new_tokens,
        rationale_tokens=args.rationale_tokens, seed=args.seed,
    )  # fmt: skip
    out = args.out or default_out(args) / _name(args)
    budget = Budget(args.batch_size, args.batch_tokens)
    running = Running(budget, args.shard, ranks, replace=args.replace, max_errors=args.max_errors)
    summary = evaluate(model, task, [case.item for case in tested.values()], out, arm=arm, running=running)
    if summary is not None:
        print("\n".join(summary_lines(summary)))
        _finish(out, summary, tested, tests)


def _finish(out: Path, summary: Mapping, tested: Mapping[str, Case], tests: Sequence[str]) -> None:
    """The page, once all records are there, and what could not be tested."""
    if summary["missing"]:
        print(f"records: {out}; the report is written with the last of them", flush=True)
        return
    records = [record for record in read_records(out / RECORDS) if record["id"] in tested]
    for name in tests:
        if not any(record.get("tests", {}).get(name) for record in records):
            print(f"left out: {name} ({TESTS[name].about}) applies to none of these items")
    print(f"report: {write_page(out, summary, records)}", flush=True)


def _cases(args: argparse.Namespace, task: tasks.Task) -> dict[str, Case]:
    """More items than are tested, so that which other item a test takes does not depend on the limit."""
    if task.name != charts.TASK.name:
        return cases(task.items(args.data, args.split), args.limit)
    if args.data is not None:
        raise ValueError(f"task charts generates its items and reads no --data, got {str(args.data)!r}")
    own = chart_settings(Path(args.model))
    seed, profile, count = own["seed"], make_profile(own["profile"]), args.limit or own["count"]
    made = held_out_items(seed, count + WINDOW, profile)
    return cases(charts.items(seed, count + WINDOW, profile), count, made, profile.held_out_share)


def _name(args: argparse.Namespace) -> str:
    parts = [args.task, args.split, "faithfulness", args.convention.replace("own", "")]
    parts += [f"limit{args.limit}" if args.limit else None, f"seed{args.seed}" if args.seed else None]
    return "-".join(part for part in [*parts, args.precision.replace("float32", "")] if part)


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.faithfulness",
        "Is an answer read from the rationale before it? Interventions on a model's own rationales; resumable.",
        "python -m eval.faithfulness --checkpoint runs/vlm --task charts --limit 200",
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", dest="model", metavar="RUN", help="run or model directory")
    which.add_argument("--model", metavar="SPEC", help="another model: hf:PATH, or endpoint:URL#MODEL")
    add("--task", required=True, metavar="NAME", help=f"one of: {', '.join(tasks.names())}")
    add("--data", type=Path, metavar="DIR", help="the task's official download")
    add("--split", help="default: the task's own")
    add("--limit", type=flags.positive, metavar="N", help="the first N items")
    every = f"of: {', '.join(TESTS)} (default: all)"
    add("--tests", type=flags.names, default=tuple(TESTS), metavar="TEST[,TEST…]", help=every)
    add("--seed", type=int, default=0, help="another seed, other mistakes")
    written = f"how prompts are written: {', '.join(CONVENTIONS)} (default: own; of other models chat)"
    add("--convention", metavar="NAME", help=written)
    add("--max-new-tokens", type=flags.positive, metavar="N", help="room for an answer (default: the task's own)")
    room = "room for a rationale (default: %(default)s)"
    add("--rationale-tokens", type=flags.positive, default=RATIONALE_TOKENS, metavar="N", help=room)
    add("--shard", type=flags.shard, default=(0, 1), metavar="i/n", help="every n-th item from the i-th on, i from 0")
    add("--batch-size", type=flags.positive, default=128, metavar="N", help="texts written at once, at most (default: 128)")
    most = "prompts, pictures (256 each) and room to write of a batch, at most (default: %(default)s)"
    add("--batch-tokens", type=flags.positive, default=Budget().tokens, metavar="N", help=most)
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    add("--precision", choices=DTYPES, default="float32")
    add("--cache", type=Path, metavar="DIR", help="keep what was written, for other evaluations of the same prompts")
    few = "stop when more than this share of the items, and more than 10, cannot be asked (default: %(default)g)"
    add("--max-errors", type=flags.share, default=Running().max_errors, metavar="SHARE", help=few)
    add("--replace", action="store_true", help="drop records of another model or other settings that lie in --out")
    add("--out", type=Path, metavar="DIR", help="default: RUN/eval/TASK-faithfulness, other choices in its name")
    args = parser.parse_args()
    args.convention = args.convention or default_for(args.model)
    return args


if __name__ == "__main__":
    cli.run(main, after_interrupt=": what was finished is kept, the same command goes on")
