"""Tokens a second of greedy generation, with an image or of the MoE decoder alone, beside transformers' `generate`.

`python -m tests.bench.generation [--model idefics|moe] [--batch 1 8 32] [--peer]`: one line for each batch size. A prompt of
256 tokens (and one picture) is read and 128 tokens are written in each row, none of which stops. The figure counts the whole
call; `writing` leaves out a call that writes one token, so it is the pace after the prompt. The limit is the memory's: the
bytes of weights, keys and values that a token needs, at the rate of a copy.

Peers: `idefics`; `mixtral` (grouped products) and `mixtral_static` (static cache, compiled).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import cache, partial
from operator import call

import torch
from torch import nn

from tests.bench import arithmetic, measure, training
from tests.bench.batches import image_batch, text_batch
from tests.bench.shapes import IDEFICS, MOE
from vlm import Batch, DecoderConfig, ModelConfig, command

PEERS = {"idefics": ("idefics",), "moe": ("mixtral", "mixtral_static")}
LENGTHS = {"anchor": (256, 128), "small": (64, 32), "tiny": (8, 4)}  # tokens of the prompt, and new ones
Write = Callable[[int], object]  # so many new tokens
ByRows = dict[int, measure.Figures]


def config_of(options: argparse.Namespace) -> DecoderConfig | ModelConfig:
    return MOE[options.shape].decoder if options.model == "moe" else IDEFICS[options.shape].model


def prompts(config: DecoderConfig | ModelConfig, rows: int, length: int, images: int, options: argparse.Namespace) -> Batch:
    if isinstance(config, DecoderConfig):
        return text_batch(config.vocab_size, rows, length, options.device, options.seed)
    size = config.encoder.image_size
    return image_batch(config.decoder.vocab_size, rows, length, images, size, options.device, options.seed)


def our_model(config: DecoderConfig | ModelConfig, options: argparse.Namespace) -> nn.Module:
    moe = isinstance(config, DecoderConfig)
    model = training.our_decoder(config, options) if moe else training.our_model(config, options)
    return model.eval()


def our_write(model: nn.Module, batch: Batch) -> Write:
    return lambda new: model.generate(batch, max_new_tokens=new, stop_ids=())


def peer_model(name: str, options: argparse.Namespace) -> nn.Module:
    dtype, device = measure.dtype_of(options.device), options.device
    if name == "idefics":
        from tests.bench.peers.idefics import idefics

        return idefics(IDEFICS[options.shape], device, dtype).eval()
    from tests.bench.peers.mixtral import mixtral

    return mixtral(MOE[options.shape].decoder, 4096, device, dtype).eval()


def peer_write(name: str, model: nn.Module, batch: Batch) -> Write:
    inputs = {"input_ids": batch.tokens, "attention_mask": torch.ones_like(batch.tokens)}
    if name == "idefics":
        from tests.bench.peers.idefics import inputs as idefics_inputs

        inputs = idefics_inputs(batch, next(model.parameters()).dtype)
    static = {"cache_implementation": "static"} if name.endswith("static") else {}
    return lambda new: model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, **static)


def pace(write: Write, rows: int, new: int, options: argparse.Namespace) -> measure.Figures:
    """Of a whole call, of its writing, and the seconds to the first token."""
    # timed from the fourth call on: the third of a shape records its prompt
    whole = measure.timing(lambda: write(new), options.device, windows=options.windows, calls=1)
    one = measure.timing(lambda: write(1), options.device, windows=options.windows, calls=1, warm=1)
    after = whole.seconds - one.seconds  # of a tiny model it may drown in noise
    writing = measure.rounded(rows * (new - 1) / after) if after > 0 else None
    return whole.figures(rows * new) | {"writing": writing, "first_token_s": measure.rounded(one.seconds)}


def by_rows(
    make: Callable[[], nn.Module],
    write_of: Callable,
    batches: list[Batch],
    options: argparse.Namespace,
    attempt: Callable[[Callable[[], measure.Figures]], measure.Figures],
) -> ByRows:
    """One model's pace for each batch, by its number of rows; `attempt` says what becomes of errors."""
    measure.clean(options.device)
    model, (_, new) = cache(make), LENGTHS[options.shape]
    return {len(b.tokens): attempt(lambda b=b: pace(write_of(model(), b), len(b.tokens), new, options)) for b in batches}


def main(arguments: list[str] | None = None) -> list[measure.Figures]:
    parser = measure.parser(__doc__, sum(PEERS.values(), ()))
    parser.add_argument("--model", choices=PEERS, default="idefics")
    parser.set_defaults(compile=False)  # as `vlm.load` gives it
    parser.add_argument("--batch", type=measure.positive, nargs="+", default=[1, 8, 32], help="rows (default 1 8 32)")
    options = measure.parse(parser, arguments)
    names = [name for name in options.peer if name in PEERS[options.model]]
    if options.peer and not names:
        parser.error(f"--peer: of --model {options.model} there are {', '.join(PEERS[options.model])}")
    (prompt, new), config = LENGTHS[options.shape], config_of(options)
    batches = [prompts(config, rows, prompt, 1, options) for rows in options.batch]
    limits = measure.limits(options.device)
    found = by_rows(partial(our_model, config, options), our_write, batches, options, call)  # our errors are raised
    attempt = measure.attempt
    peers = {n: by_rows(partial(peer_model, n, options), partial(peer_write, n), batches, options, attempt) for n in names}
    about = {"model": options.model, "prompt": prompt, "new_tokens": new, "sizes": dataclasses.asdict(config)}
    lines = []
    for rows in options.batch:
        cost = arithmetic.decode_bytes(config, rows, prompt + new / 2, measure.dtype_of(options.device).itemsize)
        theirs = {name: figures[rows] for name, figures in peers.items()}
        line = {"unit": "tokens/s", "batch": rows, **found[rows], "peers": theirs, "limits": limits}
        line |= measure.against(found[rows], theirs, cost / rows, limits["bytes"])
        lines.append(measure.emit("generation", options, line, about | {"bytes_a_step": cost}))
    return lines


if __name__ == "__main__":
    command.run(main)
