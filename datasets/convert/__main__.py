"""`python -m datasets.convert NAME SRC DST`: a public layout → shards, and a summary of what was kept and skipped, and why.

The same SRC gives the same bytes. DST gets `{source}-000000.tar`, … and, last, `summary.json`.
"""

from __future__ import annotations

import argparse
import itertools
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
from datasets.convert.destination import alone_in, earlier
from datasets.convert.pictures import BEHIND_LINK
from datasets.convert.rows import is_unicode
from datasets.shards import ShardWriter
from datasets.source import BadSample
from vlm import command
from vlm.files import write_text
from vlm.sample import Image, Sample, Text, Video

SOURCES = {  # of the examples; others are as their releases come
    "chartqa": "../shared/data/chartqa", "interleaved": "../shared/data/openstax", "opencqa": "../shared/data/opencqa",
    "scienceqa": "../shared/data/scienceqa", "text": "../shared/data/text", "coco_caption": "coco",
    "llava": "llava_v1_5_mix665k.json --images llava/images", "mmc4": "mmc4/docs_shard_0_v2.jsonl.zip --images mmc4/images",
    "pairs": "laion/00000.tar", "video_frames": "clips/train.jsonl", "vqav2": "vqav2 --images coco",
}  # fmt: skip
NOTHING = "nothing could be used"
MAX_SETS = 400  # sets of shards at once: each keeps two files open


def main(arguments: list[str] | None = None) -> int:
    return command.status(lambda: _main(sys.argv[1:] if arguments is None else arguments), ": DST is as it was")


def _main(arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in CONVERTERS:
        raise ValueError(f"converter {arguments[0]!r} is unknown{nearest(arguments[0], CONVERTERS)}")
    options = vars(_parser().parse_args(arguments))
    name, src, dst = options.pop("name"), options.pop("src"), options.pop("dst")
    if not src.exists():
        raise ValueError(f"SRC {src} does not exist")
    skips = Skips()
    try:
        summary = run(name, src, dst, skips, **options)
    except ValueError:
        _show_skipped(skips, options)
        raise
    _show(summary)
    _show_skipped(skips, options)


def run(name: str, src: Path, dst: Path, skips: Skips | None = None, **options) -> dict:
    """Convert and return the summary that is also written to `dst/summary.json`; `skips` counts even where it raises."""
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"DST {dst} is a file")
    if dst.resolve().is_relative_to(src.resolve()):
        raise ValueError(f"DST {dst} lies in SRC {src}: what is converted would be converted again")
    skips = skips or Skips()
    samples = _unicode(CONVERTERS[name].convert(src, skips, **options), skips)
    first = next(samples, None)  # before DST is touched
    if first is None:
        raise ValueError(NOTHING)
    with alone_in(dst):
        before = earlier(dst, name, options)
        samples = before.checked(itertools.chain([first], samples))
        kept = write(tqdm(samples, unit=" samples", disable=not sys.stderr.isatty()), dst, skips)
        before.remove_stale(kept)
        summary = {"converter": name, "options": options, "kept": kept, "skipped": skips.summary()}
        write_text(dst / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return summary


def write(samples: Iterable[Sample], dst: Path, skips: Skips | None = None) -> dict[str, dict]:
    """Samples → one set of shards for each source. Returns what each holds; what cannot be written is counted in `skips`."""
    skips = Skips() if skips is None else skips
    writers: dict[str, ShardWriter] = {}
    images: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    with ExitStack() as stack:
        for sample in samples:
            if sample.source not in writers:
                if len(writers) == MAX_SETS:
                    raise ValueError(f"SRC makes more than {MAX_SETS} sets of shards, one for each file: convert it in parts")
                writers[sample.source] = stack.enter_context(ShardWriter(dst, sample.source))
            try:
                writers[sample.source].write(sample)
            except BadSample as bad:
                skips.add(bad.reason, bad.detail)
                continue
            images[sample.source] += sum(isinstance(segment, Image) for segment in sample.segments)
            clips[sample.source] += sum(isinstance(segment, Video) for segment in sample.segments)
        for writer in writers.values():
            writer.finish()
    if not any(writer.samples for writer in writers.values()):
        raise ValueError(NOTHING)
    return {
        s: {"samples": w.samples, "images": images[s], "clips": clips[s], "shards": w.shards}
        for s, w in sorted(writers.items())
        if w.samples
    }


def _unicode(samples: Iterable[Sample], skips: Skips) -> Iterator[Sample]:
    """Those without half surrogates, which no shard could hold."""
    for sample in samples:
        if all(is_unicode(segment.text) for segment in sample.segments if isinstance(segment, Text)):
            yield sample
        else:
            skips.add("text is not Unicode", sample.key)


def _parser() -> argparse.ArgumentParser:
    style: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    epilog = _example("chartqa")
    parser = argparse.ArgumentParser(prog="python -m datasets.convert", description=__doc__, epilog=epilog, **style)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, converter in CONVERTERS.items():
        about = sys.modules[converter.convert.__module__].__doc__
        one = names.add_parser(name, help=converter.about, description=about, epilog=_example(name), **style)
        one.add_argument("src", type=Path, metavar="SRC", help="the official layout")
        one.add_argument("dst", type=Path, metavar="DST", help="folder for the shards")
        converter.arguments(one)
    return parser


def _example(name: str) -> str:
    return f"example:\n  python -m datasets.convert {name} {SOURCES[name]} data/{name}"


def _show(summary: dict) -> None:
    for source, kept in summary["kept"].items():
        clips = f" and {kept['clips']:,} clips" if kept["clips"] else ""
        print(f"{source}: {kept['samples']:,} samples with {kept['images']:,} images{clips} in {len(kept['shards'])} shards")
    if not summary["skipped"]:
        print("nothing was skipped")


def _show_skipped(skips: Skips, options: dict) -> None:
    for line in skips.lines():
        print(line)
    if "images" in options and any(BEHIND_LINK in reason for reason in skips.counts):
        print("where a link leads is not looked at: name the folder of the pictures with --images")


if __name__ == "__main__":
    sys.exit(main())
