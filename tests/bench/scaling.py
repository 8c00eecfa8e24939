"""Cost as it grows, beside what its arithmetic says: tokens and pictures in a row, experts, rows written at once.

`python -m tests.bench.scaling [--curves length images experts batch] [--out DIR]`: one line, and with `--out` a plot of each
curve. The first three are forward and backward passes of training, whose arithmetic is operations; the last is generation,
whose arithmetic is bytes read. Experts are 8 to 128 with the same weights in all and the same active for a token. `figure` is
the worst growth found: how many times more a unit of a point's arithmetic costs than at the best point before it (1: cost grows
as the arithmetic says, or slower). Networks are shallow, so that all points fit.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tests.bench import arithmetic, generation, measure, training
from tests.bench.batches import image_batch, text_batch
from tests.bench.shapes import IDEFICS, MOE
from train.optim import freeze
from vlm import DecoderConfig, command

SIZES = {
    "length": {"tiny": (8, 16), "small": (128, 256, 512, 1024), "anchor": (1024, 2048, 4096, 8192, 16_384, 32_768)},
    "images": {"tiny": (1, 2), "small": (1, 2, 4, 8), "anchor": (1, 2, 4, 8, 16, 32, 64)},
    "experts": {"tiny": (2, 4), "small": (8, 16, 32), "anchor": (8, 16, 32, 64, 128)},
    "batch": {"tiny": (1, 2), "small": (1, 2, 4, 8), "anchor": (1, 2, 4, 8, 16, 32, 64)},
}
Points = Iterator[tuple[int, float, float]]  # size, seconds, operations or bytes


@dataclass(frozen=True)
class Curve:
    """`unit` is what the arithmetic counts."""

    points: Callable[[argparse.Namespace], Points]
    unit: str
    axis: str


def shallow(options: argparse.Namespace) -> DecoderConfig:
    return dataclasses.replace(MOE[options.shape].decoder, num_layers=2)


def backward_seconds(model: nn.Module, loss_of: Callable[[], Tensor], options: argparse.Namespace) -> float:
    def call() -> None:
        model.zero_grad(set_to_none=True)
        loss_of().backward()

    return measure.timing(call, options.device, windows=options.windows, calls=options.calls).seconds


def text_seconds(config: DecoderConfig, rows: int, length: int, options: argparse.Namespace) -> float:
    measure.clean(options.device)
    decoder = training.our_decoder(config, options)
    batch = text_batch(config.vocab_size, rows, length, options.device, options.seed)
    return backward_seconds(decoder, training.text_loss(decoder, batch), options)


def lengths(options: argparse.Namespace) -> Points:
    config = shallow(options)
    for length in SIZES["length"][options.shape]:
        yield length, text_seconds(config, 1, length, options), length * arithmetic.text_flops(config, length)


def images(options: argparse.Namespace) -> Points:
    shape = IDEFICS[options.shape]
    layers = 2 * shape.idefics.cross_layer_interval
    config = dataclasses.replace(shape, idefics=dataclasses.replace(shape.idefics, num_hidden_layers=layers)).model
    for count in SIZES["images"][options.shape]:
        measure.clean(options.device)
        model = training.our_model(config, options)
        freeze(model, {"resampler": 1.0, "fusion": 1.0})
        vocab, size = config.decoder.vocab_size, config.encoder.image_size
        batch = image_batch(vocab, 2, shape.length, count, size, options.device, options.seed)
        seconds = backward_seconds(model, lambda m=model, b=batch: m(b, with_logits=False).loss, options)
        flops = arithmetic.image_text_flops(config, shape.length, count, ("resampler", "fusion"))
        yield count, seconds, batch.tokens.numel() * flops


def experts(options: argparse.Namespace) -> Points:
    shape, sizes = MOE[options.shape], SIZES["experts"][options.shape]
    for count in sizes:
        config = shallow(options)
        width = max(8, config.expert_dim * config.num_experts // count)
        config = dataclasses.replace(config, num_experts=count, expert_dim=width, top_k=max(1, count // sizes[0]))
        tokens = shape.rows * shape.length
        yield (
            count,
            text_seconds(config, shape.rows, shape.length, options),
            tokens * arithmetic.text_flops(config, shape.length),
        )


def batch_sizes(options: argparse.Namespace) -> Points:
    config = shallow(options)
    measure.clean(options.device)
    model = training.our_decoder(config, options).eval()
    prompt, new = generation.LENGTHS[options.shape]
    for rows in SIZES["batch"][options.shape]:
        write = generation.our_write(model, text_batch(config.vocab_size, rows, prompt, options.device, options.seed))
        whole, one = (
            measure.timing(lambda n=n, w=write: w(n), options.device, windows=options.windows, calls=1).seconds
            for n in (new, 1)
        )
        if whole <= one:
            raise RuntimeError(f"the time of {rows} rows drowns in noise: give more --windows")
        cost = arithmetic.decode_bytes(config, rows, prompt + new / 2, measure.dtype_of(options.device).itemsize)
        yield rows, whole - one, (new - 1) * cost


CURVES = {
    "length": Curve(lengths, "operations", "tokens in a row"),
    "images": Curve(images, "operations", "pictures in a row"),
    "experts": Curve(experts, "operations", "experts"),
    "batch": Curve(batch_sizes, "bytes", "rows written at once"),
}


def summary(points: list[tuple[int, float, float]]) -> measure.Figures:
    """With what a unit of each point's arithmetic costs, over the least that it has cost up to there."""
    unit = [s / c for _, s, c in points]
    growth = [measure.rounded(u / min(unit[: i + 1])) for i, u in enumerate(unit)]
    sizes, times, costs = zip(*points, strict=True)
    return {"sizes": sizes, "seconds": [measure.rounded(t) for t in times], "cost": costs, "growth": growth}


def plot(name: str, found: measure.Figures, limit: float, out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.loglog(found["sizes"], found["seconds"], "o-", base=2, label="measured")
    axes.loglog(found["sizes"], [cost / limit for cost in found["cost"]], "--", base=2, label="arithmetic, at the limit")
    axes.set(xlabel=CURVES[name].axis, ylabel="seconds")
    axes.legend()
    figure.savefig(out / f"{name}.png", dpi=120)


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--out", type=Path, help="directory for the plots")
    options = measure.parse(parser, arguments)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    limits = measure.limits(options.device)
    found = {n: measure.attempt(lambda n=n: summary(list(CURVES[n].points(options)))) for n in options.curves}
    whole = {name: curve for name, curve in found.items() if "growth" in curve}
    if options.out:
        for name, curve in whole.items():
            plot(name, curve, limits["bytes" if CURVES[name].unit == "bytes" else "flops"], options.out)
    worst = max((growth for curve in whole.values() for growth in curve["growth"]), default=None)
    return measure.emit(
        "scaling", options, {"unit": "times the arithmetic", "figure": worst, "curves": found, "limits": limits}
    )


if __name__ == "__main__":
    command.run(main)
