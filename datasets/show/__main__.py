"""`python -m datasets.show SHARDS`: an HTML page of samples as the model will see them, and counts.

SHARDS are files, folders or patterns; each set (NAME-000000.tar, …) is a source, seen once in the order of the seed. With
`--config` in their place: a stage of a training configuration (or of a run, by its config.yaml), in the very rows that the run
draws first. The page has the first rows; the counts go on until `--limit` samples were drawn.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.loader import MixtureLoader, StepBatch
from datasets.show.checks import faults
from datasets.show.page import write_page
from datasets.show.recipe import Recipe, of_config, of_shards
from datasets.show.summary import Summary, report
from datasets.show.trace import Tracer, untag
from datasets.show.view import Budget, Row, row_pieces, row_view
from vlm import command

LENGTH, IMAGE_SIZE = 512, 224  # of shards alone
MAX_NOTES = 20
MOST = {"count": 500, "limit": 1_000_000_000, "image_size": 2048, "length": 1 << 20}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    for name, most in MOST.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} must be from 1 to {most:,}, not {value}")
    notes = _collect_notes()
    recipe = _recipe(options)
    rows, summary, wrong = look(recipe, options.count, options.limit)
    try:
        write_page(options.out, recipe, rows, summary, wrong, notes)
    except OSError as error:
        raise ValueError(f"--out {options.out} cannot be written: {error.strerror}") from None
    print("\n".join(report(summary, recipe.mixture, wrong, notes)))
    print(f"{len(rows)} rows in {options.out}")
    if wrong:
        sys.exit(1)


def look(recipe: Recipe, count: int, limit: int) -> tuple[list[Row], Summary, list[str]]:
    """Draw until `count` rows are there to show and `limit` samples are counted, or all sources are used up."""
    tracer, summary, budget = Tracer(recipe.processor), Summary(recipe.length), Budget()
    rows: list[Row] = []
    wrong: list[str] = []
    for number, step in enumerate(_steps(recipe, tracer, count, limit)):
        batch, origin = untag(step.batch)
        wrong += [f"step {number}: {fault}" for fault in faults(batch, tracer.image_id)][: MAX_NOTES - len(wrong)]
        for b in range(len(batch.tokens)):
            if batch.document[b, 0] >= 0:
                room = budget if len(rows) < count else None
                place = f"step {number}, row {b}" if recipe.rows > 1 else ""
                pieces = row_pieces(batch, b, origin, tracer.documents, tracer, room)
                if room is not None:
                    rows.append(row_view(batch, b, pieces, len(rows), place))
        summary.add(batch, step.counts)
    summary.documents = [d for d in tracer.documents if d.packed]
    return rows, summary, wrong


def _steps(recipe: Recipe, tracer: Tracer, count: int, limit: int) -> Iterator[StepBatch]:
    loader = MixtureLoader(
        recipe.mixture, tracer, rows=recipe.rows, length=recipe.length, max_images=recipe.max_images, window=recipe.window
    )
    total = limit if recipe.mixture.size is None else min(limit, recipe.mixture.size)
    rows = drawn = 0
    with tqdm(total=total, unit=" samples", disable=not sys.stderr.isatty()) as bar:
        for step in loader:
            used = int((step.batch.document[:, 0] >= 0).sum())
            yield step
            rows, drawn = rows + used, drawn + step.counts.drawn.total()
            bar.update(step.counts.drawn.total())
            if not used or (rows >= count and drawn >= limit):
                return


def _recipe(options: argparse.Namespace) -> Recipe:
    if bool(options.shards) == (options.config is not None):
        raise ValueError("name SHARDS, or --config FILE in their place")
    if options.config is not None:
        return of_config(options.config, options.stage, options.tokenizer, seed=options.seed, length=options.length)
    seed, length = options.seed or 0, LENGTH if options.length is None else options.length
    return of_shards(options.shards, options.tokenizer, seed=seed, length=length, image_size=options.image_size)


class _Notes(logging.Handler):
    """The first warnings of the data engine, kept for the page."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < MAX_NOTES:
            self.lines.append(record.getMessage())


def _collect_notes() -> list[str]:
    handler = _Notes()
    logging.getLogger("datasets").addHandler(handler)
    return handler.lines


def _parser() -> argparse.ArgumentParser:
    example = "python -m datasets.show data/chartqa/train-*.tar --tokenizer runs/chart --length 512 --out page.html"
    example += "\n  python -m datasets.show --config configs/vlm.yaml --stage tune"
    parser = command.parser("datasets.show", __doc__ or "", example)
    parser.add_argument("shards", nargs="*", metavar="SHARDS", help="shards, folders of them, or patterns")
    parser.add_argument("--config", metavar="FILE", help="a training configuration, or a run's config.yaml")
    parser.add_argument("--stage", metavar="NAME", help="with --config: a stage, or validation (default: the last stage)")
    where = "a run, a model directory or a tokenizer.json (default: the config's own, or one trained on the first documents)"
    parser.add_argument("--tokenizer", metavar="RUN_OR_FILE", help=where)
    parser.add_argument("--length", type=int, metavar="N", help=f"tokens a row (default {LENGTH}, or the stage's)")
    parser.add_argument("--count", type=int, default=20, metavar="K", help="rows on the page (default 20)")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="samples that are counted (default 1000)")
    parser.add_argument("--out", type=Path, default=Path("page.html"), metavar="FILE", help="the page (default page.html)")
    parser.add_argument("--seed", type=int, metavar="S", help="order of the samples (default 0, or the configuration's)")
    size = f"with SHARDS and no run: the encoder's pixels a side (default {IMAGE_SIZE})"
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, metavar="N", help=size)
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)  # cutting and counting only
    command.run(main)
