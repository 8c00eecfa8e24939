"""Seconds from a prompt of 1,024 tokens and four images to its first new token, beside Idefics of the same shape.

`python -m tests.bench.first_token [--peer] [--batch 1]`. Nothing of the prompt is known before: encoder, resampler and decoder
run, and one token is chosen. `figure` is prompts a second, `seconds` is what one waits.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

from tests.bench import arithmetic, generation, measure
from tests.bench.shapes import IDEFICS
from vlm import command


def seconds(write: generation.Write, options: argparse.Namespace) -> measure.Figures:
    found = measure.timing(lambda: write(1), options.device, windows=options.windows, calls=options.calls)
    return {**found.figures(options.batch), "seconds": measure.rounded(found.seconds)}


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__, generation.PEERS["idefics"])
    parser.set_defaults(compile=False)  # as `vlm.load` gives it
    parser.add_argument("--batch", type=measure.positive, default=1)
    options = measure.parse(parser, arguments)
    shape = IDEFICS[options.shape]
    config = shape.model
    batch = generation.prompts(config, options.batch, shape.length, shape.images, options)
    limits = measure.limits(options.device)
    found = seconds(generation.our_write(generation.our_model(config, options), batch), options)

    def peer(name: str) -> measure.Figures:
        return seconds(generation.peer_write(name, generation.peer_model(name, options), batch), options)

    peers = measure.beside({name: partial(peer, name) for name in options.peer}, options.device)
    flops = shape.length * arithmetic.image_text_flops(config, shape.length, shape.images, train=())
    line = {"unit": "prompts/s", **found, "peers": peers, "limits": limits}
    line |= measure.against(found, peers, flops, limits["flops"])
    about = {"batch": options.batch, "length": shape.length, "images": shape.images, "flops_a_prompt": flops}
    return measure.emit("first_token", options, line, about | {"sizes": dataclasses.asdict(config)})


if __name__ == "__main__":
    command.run(main)
