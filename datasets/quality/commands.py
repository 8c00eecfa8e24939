"""The three commands of `python -m datasets.quality`: their arguments, and what they print."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from datasets.quality import classifier as unwanted
from datasets.quality import contamination as overlap
from datasets.quality.filter import Pictures, Settings
from datasets.quality.overlap import Kind
from datasets.quality.pictures import MAX_DISTANCE
from datasets.quality.rules import Rules
from datasets.quality.run import run
from datasets.quality.wordlist import DEFAULT
from vlm import command

HELP = {
    "min_words": "fewest words of a sample without pictures",
    "max_words": "most words of a sample",
    "max_word_length": "longest mean length of words, in characters",
    "min_letters": "smallest share of letters",
    "max_repeated": "largest share of lines that stood before",
    "sure_probability": "the classifier's, to drop a sample alone",
    "sure_share": "of listed words, to drop a sample alone",
    "both_probability": "the classifier's, to drop a sample together with the word list",
    "both_share": "of listed words, to drop a sample together with the classifier",
    "similarity": "Jaccard of three-word shingles, from which texts are near duplicates",
    "min_near_words": "fewest words of a text that may be a near duplicate",
    "picture_distance": f"coarse bits of 256 up to which pictures may look the same, at most {MAX_DISTANCE}",
}


def clean(arguments: list[str], description: str) -> None:
    """`python -m datasets.quality SRC DST`"""
    example = "python -m datasets.quality data/text data/text-clean --languages en --classifier unwanted.safetensors"
    parser = command.parser("datasets.quality", description, example)
    parser.add_argument("src", type=Path, metavar="SRC", help="a shard, a folder of them, or a pattern")
    parser.add_argument("dst", type=Path, metavar="DST", help="folder for the shards and the report")
    parser.add_argument("--languages", default="", metavar="EN,DE,…", help="languages that are kept (default: all)")
    parser.add_argument("--words", type=Path, default=DEFAULT, metavar="FILE", help="unwanted words and phrases, one a line")
    parser.add_argument("--classifier", type=Path, metavar="MODEL", help="of unwanted text, from `datasets.quality train`")
    parser.add_argument(
        "--pictures", choices=get_args(Pictures), default="with-text", help="what makes a picture's repeat a duplicate"
    )
    parser.add_argument("--against", type=Path, metavar="EVAL", help="drop what overlaps with this evaluation set")
    parser.add_argument("--against-kinds", nargs="+", choices=get_args(Kind), default=["picture", "text"], metavar="KIND")
    _add_thresholds(parser)
    options = vars(parser.parse_args(arguments))
    languages = tuple(filter(None, options["languages"].lower().replace(" ", "").split(",")))
    chosen = {name: options[name] for name in HELP}
    ruled = {name: chosen.pop(name) for name in list(chosen) if name in Rules.__dataclass_fields__}
    kinds = tuple(options["against_kinds"])
    settings = Settings(rules=Rules(languages=languages, **ruled), pictures=options["pictures"], against=kinds, **chosen)
    paths = {"words": options["words"], "classifier": options["classifier"], "against": options["against"]}
    _show_clean(run(options["src"], options["dst"], settings, **paths), options["dst"])


def _add_thresholds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("thresholds (shares, probabilities and similarities from 0 to 1)")
    defaults = {f: getattr(Settings(), f, None) if f not in Rules.__dataclass_fields__ else getattr(Rules(), f) for f in HELP}
    for name, about in HELP.items():
        default = defaults[name]
        kind = float if isinstance(default, float) else int
        said = "none" if default is None else default
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, metavar="X", help=f"{about} (default {said})"
        )


def _show_clean(report: dict, dst: Path) -> None:
    print(f"{report['kept']:,} of {report['samples']:,} samples kept in {dst}")
    for reason, dropped in report["dropped"].items():
        case = report["examples"][reason][0]
        repeats = f", repeats {case['of']}" if case["of"] else ""
        print(f"dropped, {reason}: {dropped['count']:,} (such as {case['place']}{repeats})")
    for reason, skipped in report["unreadable"].items():
        print(f"unreadable, {reason}: {skipped['count']:,} (such as {skipped['examples'][0]})")
    if not report["unwanted"]["classifier_histogram"]:
        print("no --classifier was given: unwanted text was judged by the word list alone")


def train(arguments: list[str]) -> None:
    """`python -m datasets.quality train LABELLED.jsonl MODEL`"""
    example = "python -m datasets.quality train labelled.jsonl unwanted.safetensors"
    parser = command.parser("datasets.quality train", str(unwanted.__doc__), example)
    parser.add_argument(
        "labelled", type=Path, metavar="LABELLED", help="rows `text, label` (1: unwanted, 0: wanted), .jsonl or .jsonl.gz"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="file for the classifier (safetensors)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the rows (default 5, more where rows are few)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another order (default 0)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        raise ValueError(f"--epochs: want at least 1, got {options.epochs}")
    summary = unwanted.train(options.labelled, options.model, epochs=options.epochs, seed=options.seed)
    trained, held_out = summary["trained_on"], summary["held_out"]
    print(f"{options.model}: trained on {trained['texts']:,} texts, {trained['unwanted']:,} of them unwanted")
    figures = ", ".join(f"{name} {held_out[name]:.3f}" for name in ("precision", "recall", "auc"))
    print(f"on {held_out['texts']:,} held-out texts: {figures}")
    for reason, skipped in summary["skipped"].items():
        print(f"skipped, {reason}: {skipped['count']:,} (such as {skipped['examples'][0]})")


def contamination(arguments: list[str]) -> None:
    """`python -m datasets.quality contamination TRAIN EVAL`"""
    example = (
        "python -m datasets.quality contamination 'data/chartqa/train-*.tar' 'data/chartqa/test-*.tar' --out contamination"
    )
    parser = command.parser("datasets.quality contamination", str(overlap.__doc__), example)
    parser.add_argument("train", type=Path, metavar="TRAIN", help="training shards: one, a folder of them, or a pattern")
    parser.add_argument(
        "eval", type=Path, metavar="EVAL", help="evaluation shards, or a folder of pictures and rows with questions"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for contamination.json and seen.jsonl")
    parser.add_argument(
        "--picture-distance",
        type=int,
        default=MAX_DISTANCE,
        metavar="X",
        help=f"{HELP['picture_distance']} (default {MAX_DISTANCE})",
    )
    options = parser.parse_args(arguments)
    if options.out and options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file")
    summary, rows = overlap.compare(options.train, options.eval, options.picture_distance)
    if options.out:
        overlap.write(options.out, summary, rows)
    total = summary["evaluation_samples"]
    print(f"{total:,} evaluation samples against {summary['training_samples']:,} training samples")
    for kind, seen in summary["seen"].items():
        touch = summary["training_samples_that_touch"][kind]["count"]
        print(f"seen, {kind}: {seen['count']:,} ({seen['share']:.2%}), by {touch:,} training samples")
    print(f"seen by any of these: {summary['seen_by_any']['count']:,} ({summary['seen_by_any']['share']:.2%})")
    for side, skips in summary["skipped"].items():
        for reason, skipped in skips.items():
            print(f"{side}, skipped, {reason}: {skipped['count']:,} (such as {skipped['examples'][0]})")
