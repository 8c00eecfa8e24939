"""Does the fast path learn the same? Losses over a fixed sequence of real batches, fast and plain, from the same weights.

`python -m tests.bench.losses [--steps 200] [--config configs/vlm.yaml] [--set key=value ...]`. `figure` is the largest
difference between the loss of the fast path (as training runs it) and that of the plain one (plain.py, with torch's AdamW).
`noise` is the largest between runs of the plain path whose batches' rows stand in another order: the same mathematics, other
roundings. A speed-up may move the losses by as much and no more: `ratio` is figure over noise.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tests.bench import measure, training
from tests.bench.default_config import our_step, plain_step
from tests.bench.real import batches
from train.config import read_config
from vlm import VLM, Batch, command


def rows_in_order(batch: Batch, order: Tensor) -> Batch:
    """The same batch with its rows in another order; its media stay where they are."""
    names = ("tokens", "labels", "positions", "document", "image_index")
    row, document = batch.media_document.unbind(dim=1)
    owner = torch.stack((order.argsort()[row], document), dim=1)
    return dataclasses.replace(batch, media_document=owner, **{name: getattr(batch, name)[order] for name in names})


def curve(step_of: Callable[[VLM, Iterator[Batch]], training.Step], model: VLM, data: list[Batch]) -> Tensor:
    """The loss [steps] of each batch in turn."""
    step = step_of(model, iter(data))
    return torch.stack([step() for _ in data]).float().cpu()


def shuffled(data: list[Batch], seed: int) -> list[Batch]:
    chance = torch.Generator().manual_seed(seed)
    return [rows_in_order(b, torch.randperm(len(b.tokens), generator=chance).to(b.tokens.device)) for b in data]


def runs(model: VLM, data: list[Batch], options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The fast curve [steps], and the plain ones [1 + orders, steps], of which the first has the rows as they are."""
    fast = curve(our_step, training.compiled(copy.deepcopy(model), options), data)
    measure.clean(options.device)
    orders = [data, *(shuffled(data, seed) for seed in range(options.orders))]
    return fast, torch.stack([curve(plain_step, copy.deepcopy(model), ordered) for ordered in orders])


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__)
    parser.add_argument("--steps", type=measure.positive, default=200)
    parser.add_argument("--orders", type=measure.positive, default=2, help="other orders of the rows (default 2)")
    parser.add_argument("--config", default="configs/vlm.yaml")
    parser.add_argument("--stage", default="tune")
    parser.add_argument("--set", nargs="*", default=[], help="key=value, as in training")
    options = measure.parse(parser, arguments)
    config = read_config(options.config, options.set)
    data = batches(config, options.stage, options.steps, options.device)
    with torch.device(options.device):
        model = VLM(config.model).to(measure.dtype_of(options.device))
    fast, plain = runs(model, data, options)
    difference, noise = (fast - plain[0]).abs(), (plain[1:] - plain[0]).abs().amax(dim=0)
    line = {
        "unit": "nats", "figure": measure.rounded(difference.max().item()), "noise": measure.rounded(noise.max().item()),
        "mean_difference": measure.rounded(difference.mean().item()), "mean_noise": measure.rounded(noise.mean().item()),
        "ratio": measure.rounded((difference.max() / noise.max()).item()) if noise.any() else None,
        "loss": [round(plain[0, 0].item(), 4), round(plain[0, -1].item(), 4)], "last": round(fast[-1].item(), 4),
    }  # fmt: skip
    about = {"steps": len(data), "config": options.config, "set": options.set, "orders": options.orders}
    return measure.emit("losses", options, line, about)


if __name__ == "__main__":
    command.run(main)
