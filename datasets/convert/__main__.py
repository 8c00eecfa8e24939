"""`python -m datasets.convert NAME SRC DST`: a public layout → shards, and a summary of what was kept and skipped, and why.

The same SRC gives the same bytes. DST gets `{source}-000000.tar`, … and, last, `summary.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.build import nearest
from datasets.convert import CONVERTERS
from datasets.convert.common import Skips
from datasets.members import to_members
from datasets.shards import MAX_SAMPLE, ShardWriter
from vlm import command
from vlm.sample import Image, Sample, Video

EXAMPLE = "example:\n  python -m datasets.convert {0} ../shared/data/{0} data/{0}"
MAX_SETS = 500  # sets of shards at once: each keeps a file open
TAR = 2048  # bytes around a member at most: headers and padding


def main(arguments: list[str] | None = None) -> int:
    return command.status(lambda: _main(sys.argv[1:] if arguments is None else arguments), ": DST is as it was")


def _main(arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in CONVERTERS:
        raise ValueError(f"converter {arguments[0]!r} is unknown{nearest(arguments[0], CONVERTERS)}")
    options = vars(_parser().parse_args(arguments))
    name, src, dst = options.pop("name"), options.pop("src"), options.pop("dst")
    if not src.exists():
        raise ValueError(f"SRC {src} does not exist")
    _show(run(name, src, dst, **options))


def run(name: str, src: Path, dst: Path, **options) -> dict:
    """Convert and return the summary that is also written to `dst/summary.json`."""
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"DST {dst} is a file")
    if dst.resolve().is_relative_to(src.resolve()):
        raise ValueError(f"DST {dst} lies in SRC {src}: what is converted would be converted again")
    skips = Skips()
    samples = _readable(CONVERTERS[name].convert(src, skips, **options), skips)
    kept = write(tqdm(samples, unit=" samples", disable=not sys.stderr.isatty()), dst)
    summary = {"converter": name, "options": options, "kept": kept, "skipped": skips.summary()}
    (dst / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def write(samples: Iterable[Sample], dst: Path) -> dict[str, dict]:
    """Samples → one set of shards for each source. Returns what each holds."""
    writers: dict[str, ShardWriter] = {}
    images: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    with ExitStack() as stack:
        for sample in samples:
            if sample.source not in writers:
                if len(writers) == MAX_SETS:
                    raise ValueError(f"SRC makes more than {MAX_SETS} sets of shards, one for each file: convert it in parts")
                writers[sample.source] = stack.enter_context(ShardWriter(dst, sample.source))
            writers[sample.source].write(sample)
            images[sample.source] += sum(isinstance(segment, Image) for segment in sample.segments)
            clips[sample.source] += sum(isinstance(segment, Video) for segment in sample.segments)
    if not writers:
        raise ValueError("nothing could be used")
    return {
        s: {"samples": w.samples, "images": images[s], "clips": clips[s], "shards": w.shards}
        for s, w in sorted(writers.items())
    }


def _readable(samples: Iterable[Sample], skips: Skips) -> Iterator[Sample]:
    """Those that fit what a reader of shards takes."""
    for sample in samples:
        if sum(len(data) + TAR for data in to_members(sample).values()) <= MAX_SAMPLE:
            yield sample
        else:
            skips.add("sample too large", sample.key)


def _parser() -> argparse.ArgumentParser:
    style: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    epilog = EXAMPLE.format("chartqa")
    parser = argparse.ArgumentParser(prog="python -m datasets.convert", description=__doc__, epilog=epilog, **style)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, converter in CONVERTERS.items():
        about = sys.modules[converter.convert.__module__].__doc__
        one = names.add_parser(name, help=converter.about, description=about, epilog=EXAMPLE.format(name), **style)
        one.add_argument("src", type=Path, metavar="SRC", help="the official layout")
        one.add_argument("dst", type=Path, metavar="DST", help="folder for the shards")
        converter.arguments(one)
    return parser


def _show(summary: dict) -> None:
    for source, kept in summary["kept"].items():
        clips = f" and {kept['clips']:,} clips" if kept["clips"] else ""
        print(f"{source}: {kept['samples']:,} samples with {kept['images']:,} images{clips} in {len(kept['shards'])} shards")
    for reason, skipped in summary["skipped"].items():
        print(f"skipped, {reason}: {skipped['count']:,} (such as {skipped['examples'][0]})")
    if not summary["skipped"]:
        print("nothing was skipped")


if __name__ == "__main__":
    sys.exit(main())
