"""Tokens and images a second of training with images, beside Idefics of the same shape, as it is and compiled.

`python -m tests.bench.image_text_train [--peer] [--unfrozen] [--experts 8] [--rows 16]`. Text and vision are frozen, resampler
and gated blocks learn, unless `--unfrozen`. Rows are random tokens with pictures evenly between them (batches.py).
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

import torch

from tests.bench import arithmetic, measure, training
from tests.bench.batches import image_batch
from tests.bench.shapes import IDEFICS, ImageText
from vlm import Batch, command

PEERS = ("idefics", "idefics_compiled")


def peer(shape: ImageText, batch: Batch, options: argparse.Namespace, *, compiled: bool) -> measure.Figures:
    from tests.bench.peers import idefics

    dtype = measure.dtype_of(options.device)
    model = idefics.idefics(shape, options.device, dtype, frozen=not options.unfrozen).train()
    inputs = idefics.inputs(batch, dtype) | {"labels": batch.tokens, "use_cache": False}
    forward = torch.compile(model) if compiled else model
    return training.run(training.peer_step(model.parameters(), lambda: forward(**inputs).loss), batch.tokens.numel(), options)


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__, PEERS)
    parser.add_argument("--unfrozen", action="store_true", help="all parameters learn")
    parser.add_argument("--experts", type=measure.positive, default=1, help="of each layer, two a token; peers have none")
    for name in ("rows", "length", "images"):
        parser.add_argument(f"--{name}", type=measure.positive)
    options = measure.parse(parser, arguments)
    changes = {name: getattr(options, name) for name in ("rows", "length", "images", "experts") if getattr(options, name)}
    shape = dataclasses.replace(IDEFICS[options.shape], **changes)
    if shape.images > shape.length:
        parser.error(f"--images {shape.images}: of a row of {shape.length} tokens no more than {shape.length} can be seen")
    config = shape.model
    vocab, size = config.decoder.vocab_size, config.encoder.image_size
    batch = image_batch(vocab, shape.rows, shape.length, shape.images, size, options.device, options.seed)
    limits = measure.limits(options.device)
    train = ("encoder", "resampler", "fusion", "decoder") if options.unfrozen else ("resampler", "fusion")
    found = training.our_vlm(config, batch, train, options)
    works = {name: partial(peer, shape, batch, options, compiled=name.endswith("compiled")) for name in options.peer}
    peers = measure.beside(works, options.device)
    flops = arithmetic.image_text_flops(config, shape.length, shape.images, train)
    images = found["figure"] * shape.images / shape.length
    line = {"unit": "tokens/s", **found, "images_per_s": measure.rounded(images), "peers": peers, "limits": limits}
    line |= measure.against(found, peers, flops, limits["flops"])
    about = {"rows": shape.rows, "length": shape.length, "images": shape.images, "train": train, "flops_a_token": flops}
    return measure.emit("image_text_train", options, line, about | {"model": dataclasses.asdict(config)})


if __name__ == "__main__":
    command.run(main)
