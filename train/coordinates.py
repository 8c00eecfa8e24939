"""`python -m train.coordinates CONFIG`: how activations move with width, in the first steps of training.

The check of Yang et al. (2022, appendix D.1). The configuration's model is built at several widths and takes the same steps on
the same few batches of its last stage. After each step x is what comes out of a kind of block, over one batch that all widths
share; what counts is how far it has moved, mean |x - x at the start|. With rates that carry over (`optim.base_width`) it is as
far in a wide model as in a narrow one: the slope of log change against log width is near 0. Else the wide one moves further,
and its best rate is a lower one.

    DIR/coordinates.csv   width, seed, step, kind, size, change
    DIR/coordinates.png   the changes after each step, a panel a kind

Routers and the head read the wide stream into a few numbers. What their first weights make of a stream that moves is chance,
and falls by 1/sqrt(width) where they start by 1/width, as they have to: `router` and `logits` may fall in the first steps.
`router_learned` and `logits_learned` are what their weights have learned since, (W - W at the start) x, which is to stay flat.
`experts` fall somewhat, too: the less a router tells experts apart, the more their outputs are a mean.

Batches are small, the rate has no warm-up, and weights that would come from a file start anew.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loader import MixtureLoader
from eval import cli
from eval.figures import coordinates_figure
from train.config import Config, read_config
from train.data import stage_mixture
from train.optim.at_width import at_width
from train.optim.build import build_optimizer
from train.optim.groups import freeze
from train.optim.width import start_at_width
from train.start import new_processor
from vlm.batch import Batch
from vlm.decoder import TextDecoder
from vlm.model import VLM
from vlm.moe import Router

FLAT = 0.2  # the largest slope that counts as flat
WIDTHS = (64, 128, 256, 512, 1024)
BATCHES, ROWS, LENGTH = 4, 2, 64
COLUMNS = ("width", "seed", "step", "kind", "size", "change")

Row = tuple[int, int, int, str, float, float]
Changes = Mapping[str, Mapping[int, dict[int, float]]]  # kind → step → width → change
Reader = tuple[str, nn.Module, Callable[[Tensor, Any], Tensor]]  # kind of block, block, what is read of its input and output


def coordinates(config: Config, widths: Sequence[int], steps: int, device: torch.device, seeds: int = 1) -> Iterator[Row]:
    """The rows of `coordinates.csv`, step 0 among them, for first weights of `seeds` seeds from `run.seed` on. Raises
    `ValueError` for a width that the model cannot have."""
    models = [at_width(config.model, width) for width in widths]  # all mistakes at once
    batches = [batch.to(device) for batch in small_batches(config)]
    for model, seed in itertools.product(models, range(config.run.seed, config.run.seed + seeds)):
        resized = dataclasses.replace(config, model=model, run=dataclasses.replace(config.run, seed=seed))
        before: dict[str, list[Tensor]] = {}
        for step, outputs in enumerate(_outputs(resized, batches, steps, device)):
            before = before or outputs
            for kind, values in outputs.items():
                change = fmean(_size(x - y) for x, y in zip(values, before[kind], strict=True))
                yield model.decoder.dim, seed, step, kind, fmean(map(_size, values)), change


def _size(x: Tensor) -> float:
    return float(x.abs().mean())


def small_batches(
    config: Config, count: int = BATCHES, rows: int = ROWS, length: int = LENGTH, workers: int = 0
) -> list[Batch]:
    """The first batches of the last stage, with few and short rows, made by as many processes beside this one."""
    stage = config.stages[-1]
    processor = new_processor(config)
    mixture = stage_mixture(config, stage.mixture, stage.name)
    loader = MixtureLoader(
        mixture,
        processor,
        rows=rows,
        length=length,
        workers=workers,
        max_images=stage.max_images,
        window=stage.window,
        max_skipped=config.run.max_skipped,
    )
    return [step.batch for step in itertools.islice(loader, count)]


def new_model(config: Config, device: torch.device) -> VLM:
    """Seeded weights, as a run's first stage has them."""
    torch.manual_seed(config.run.seed)
    model = VLM(config.model)
    if config.optim.base_width is not None:
        start_at_width(model, config.optim.base_width)
    return model.to(device)


def optimizer_of(config: Config, model: VLM) -> torch.optim.Optimizer:
    """For all groups that the last stage trains, at its peak rate."""
    stage = config.stages[-1]
    train = {str(name): factor for name, factor in stage.train.items()}
    freeze(model, train)
    return build_optimizer(model, train, config.optim, stage.lr or config.optim.lr)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """One step on `loss`, its gradient's norm at most `clip`."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def _outputs(config: Config, batches: list[Batch], steps: int, device: torch.device) -> Iterator[dict[str, list[Tensor]]]:
    """What comes out of each kind of block over the first batch, at the start and after each step."""
    model = new_model(config, device)
    optimizer, readers = optimizer_of(config, model), list(_readers(model))
    for step in range(steps + 1):
        if step:
            descend(optimizer, model(batches[(step - 1) % len(batches)], with_logits=False).loss, config.optim.clip)
        with torch.no_grad(), _recorded(readers) as outputs:
            model(batches[0])
        yield outputs


@contextmanager
def _recorded(readers: Sequence[Reader]) -> Iterator[dict[str, list[Tensor]]]:
    """Within, what each reader reads is kept by its kind."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)

    def keep(kind: str, read: Callable[..., Tensor]) -> Callable[..., None]:
        return lambda module, inputs, output: outputs[kind].append(read(inputs[0], output).float())

    hooks = [module.register_forward_hook(keep(kind, read)) for kind, module, read in readers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _readers(model: VLM) -> Iterator[Reader]:
    """To be called at the start: the first weights are kept for what was learned since."""
    layers = model.decoder.layers
    kinds: dict[str, Iterable[Any]] = {
        "encoder": model.encoder.blocks,
        "resampler": getattr(model.resampler, "layers", ()),
        "gated": model.fusion.values(),
        "attention": [layer.attention for layer in layers],
        "experts": [layer.moe for layer in layers],
    }
    for kind, modules in kinds.items():
        for module in modules:
            yield kind, module, lambda x, output: output[0] if isinstance(output, tuple) else output
    for router in (module for module in layers.modules() if isinstance(module, Router)):
        yield from _router_readers(router)
    yield from _head_readers(model.decoder)


def _router_readers(router: Router) -> Iterator[Reader]:
    first = router.weight.detach().clone()
    yield "router", router, lambda x, _: F.linear(x.float(), router.weight.float())
    yield "router_learned", router, lambda x, _: F.linear(x.float(), (router.weight - first).float())


def _head_readers(decoder: TextDecoder) -> Iterator[Reader]:
    """The head is no module of its own where it is tied: both read what comes out of the last norm."""
    norm, head = decoder.norm.weight.detach().clone(), decoder.head_weight.detach().clone()
    yield "logits", decoder.norm, lambda _, y: decoder.logits(y)
    yield "logits_learned", decoder.norm, lambda _, y: decoder.logits(y) - F.linear(y / decoder.norm.weight * norm, head)


def changes(rows: Sequence[Row]) -> Changes:
    """Over seeds the geometric mean; kinds that do not move are left out."""
    logs: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for width, _, step, kind, _, change in rows:
        if change > 0:
            logs[kind, step, width].append(math.log(change))
    found: Changes = defaultdict(lambda: defaultdict(dict))
    for (kind, step, width), of_seeds in logs.items():
        found[kind][step][width] = math.exp(fmean(of_seeds))
    return found


def slopes(found: Changes) -> dict[str, float]:
    """Kind → slope of log change against log width after its last step."""
    last = {kind: by_step[max(by_step)] for kind, by_step in found.items()}
    return {kind: float(np.polyfit(np.log(list(by)), np.log(list(by.values())), 1)[0]) for kind, by in last.items()}


def write(rows: Sequence[Row], directory: Path) -> None:
    """The table and its plot."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "coordinates.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    coordinates_figure(changes(rows)).savefig(directory / "coordinates.png", dpi=150)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    example = "python -m train.coordinates configs/tiny.yaml --set optim.base_width=64 --widths 64 128 256"
    parser = cli.parser("train.coordinates", __doc__.split("\n\n")[0], example)
    add = parser.add_argument
    add("config", help="YAML file of a run")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a key by its dotted path")
    add("--widths", nargs="+", type=int, default=list(WIDTHS), metavar="N", help="of decoder.dim; the other parts follow")
    add("--steps", type=int, default=10, metavar="N")
    add("--seeds", type=int, default=1, metavar="N", help="first weights to take the mean over (default 1)")
    add("--device", default="cpu", metavar="D")
    add("--out", type=Path, default=Path("runs/coordinates"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = _arguments(argv)
    if len(set(arguments.widths)) < 2 or min(arguments.widths) < 1:
        raise ValueError(f"--widths takes two or more different widths, not {arguments.widths}")
    for name in ("steps", "seeds"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is at least 1, not {getattr(arguments, name)}")
    config = read_config(arguments.config, arguments.set)
    widths, device = sorted(set(arguments.widths)), cli.device(arguments.device)
    rows = list(coordinates(config, widths, arguments.steps, device, arguments.seeds))
    write(rows, arguments.out)
    for kind, slope in slopes(changes(rows)).items():
        verdict = "flat" if abs(slope) <= FLAT else "grows" if slope > 0 else "falls"
        print(f"{kind:14} slope {slope:+.2f}  {verdict}")
    print(f"\n{arguments.out / 'coordinates.csv'}\n{arguments.out / 'coordinates.png'}")


if __name__ == "__main__":
    cli.run(main)
