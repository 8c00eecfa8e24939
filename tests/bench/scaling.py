"""Cost as it grows, beside what its arithmetic says: tokens and pictures in a row, experts, rows written at once.

`python -m tests.bench.scaling [--curves length images experts batch] [--out DIR]`: one line, and with `--out` a plot,
DIR/scaling.png. The first three are forward and backward passes of training, whose arithmetic is operations; the last is
generation, whose arithmetic is bytes read. Experts are 8 to 128 with the same weights in all and the same active for a token.
`figure` is the worst growth found: how many times more a unit of a point's arithmetic costs than at the best point before it
(1: cost grows as the arithmetic says, or slower). Networks are shallow, so that all points fit.
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
from train.optim.groups import freeze
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


def plot(curves: dict[str, measure.Figures], limits: measure.Figures, file: Path) -> None:
    """Each curve beside its arithmetic at the limit."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure = Figure(figsize=(4 * len(curves), 3.5), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, found) in zip(panels, curves.items(), strict=True):
        limit = limits["bytes" if CURVES[name].unit == "bytes" else "flops"]
        axes.plot(found["sizes"], found["seconds"], "o-", label="measured")
        axes.plot(found["sizes"], [cost / limit for cost in found["cost"]], "--", label="arithmetic, at the limit")
        axes.set(xlabel=CURVES[name].axis, ylabel="seconds", xscale="log", yscale="log")
        axes.set_xticks(found["sizes"], found["sizes"], minor=False)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
    panels[0].legend()
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--out", type=Path, help="directory for the plot")
    options = measure.parse(parser, arguments)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    limits = measure.limits(options.device)
    found = {n: measure.attempt(lambda n=n: summary(list(CURVES[n].points(options)))) for n in options.curves}
    whole = {name: curve for name, curve in found.items() if "growth" in curve}
    if options.out and whole:
        plot(whole, limits, options.out / "scaling.png")
    worst = max((growth for curve in whole.values() for growth in curve["growth"]), default=None)
    return measure.emit(
        "scaling", options, {"unit": "times the arithmetic", "figure": worst, "curves": found, "limits": limits}
    )


if __name__ == "__main__":
    command.run(main)
