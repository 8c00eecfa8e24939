"""`python -m datasets.charts DST --count N --seed S`: charts as shards that a source can read, and a sheet to look at.

Each sample is one chart with its questions; its `meta` holds the specification with the table, and every question with its
kind, answer and rationale. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from datasets.charts.profile import PROFILES, RENDERER_NAMES, make_profile
from datasets.charts.questions import make_questions
from datasets.charts.samples import ChartSource
from datasets.charts.sheet import contact_sheet
from datasets.charts.spec import make_spec
from datasets.shards import ShardWriter
from vlm import command

EXAMPLE = "example:\n  python -m datasets.charts data/charts --count 10000 --seed 1 --profile read --show sheet.png"
SHEET = 36  # charts on a contact sheet


def main(arguments: list[str] | None = None) -> int:
    return command.status(lambda: _main(_parser().parse_args(arguments)), ": DST is as it was")


def _main(options: argparse.Namespace) -> None:
    if options.count < 1:
        raise ValueError(f"--count: want at least 1, got {options.count}")
    counts = _write(options)
    if options.show:
        _show(options)
    print(f"{options.count:,} charts in {options.dst}: " + ", ".join(f"{n:,} {type_}" for type_, n in sorted(counts.items())))


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m datasets.charts", description=__doc__, epilog=EXAMPLE, formatter_class=style
    )
    parser.add_argument("dst", type=Path, metavar="DST", help="folder for the shards")
    parser.add_argument("--count", type=int, default=1000, help="charts (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other charts (default 0)")
    parser.add_argument("--profile", default="sight", help=f"{', '.join(PROFILES)} (default sight)")
    parser.add_argument("--split", choices=("train", "held_out"), default="train", help="the two never share a table")
    parser.add_argument("--side", type=int, help="pixels of the longer side (default: the profile's)")
    parser.add_argument("--renderer", choices=RENDERER_NAMES, help="who draws (default: the profile's, own)")
    parser.add_argument("--questions", type=int, default=4, help="questions about each chart (default 4)")
    parser.add_argument("--show", type=Path, metavar="PNG", help=f"also write a contact sheet of the first {SHEET}")
    return parser


def _profile(options: argparse.Namespace):
    chosen: dict = {} if options.side is None else {"side": (options.side, options.side)}
    if options.renderer is not None:
        chosen["renderers"] = {options.renderer: 1.0}
    return make_profile(options.profile, **chosen)


def _write(options: argparse.Namespace) -> Counter[str]:
    """Charts → shards. Returns how many of each type."""
    profile = _profile(options)
    source = ChartSource(options.seed, options.split, options.count, profile, options.questions)
    counts: Counter[str] = Counter()
    with ShardWriter(options.dst, f"charts-{options.profile}-{options.split}") as writer:
        for index in _progress(range(options.count)):
            spec, questions = source.chart(0, index)
            said = dataclasses.asdict(dataclasses.replace(spec, mark_pool=()))  # without a whole vocabulary
            meta = {"spec": said, "questions": [dataclasses.asdict(question) for question in questions]}
            writer.write(dataclasses.replace(source.get(0, index), meta=meta))
            counts[spec.type] += 1
    return counts


def _progress(items: range) -> Iterable[int]:
    """A bar on a terminal, a line every tenth of the way elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, unit=" charts")
        return
    for item in items:
        if item and item % max(1, len(items) // 10) == 0:
            print(f"{item:,} of {len(items):,} charts", file=sys.stderr)
        yield item


def _show(options: argparse.Namespace) -> None:
    profile, charts = _profile(options), []
    for index in range(min(SHEET, options.count)):
        spec = make_spec(options.seed, index, options.split, profile)
        charts += [(spec, question) for question in make_questions(spec, 1, profile)]
    options.show.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(charts).save(options.show)


if __name__ == "__main__":
    sys.exit(main())
