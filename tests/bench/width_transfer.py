"""Does the best rate carry over width? The same training at several rates and widths, all on the same batches.

`python -m tests.bench.width_transfer [--config configs/vlm.yaml] [--widths 128 512] [--kind muon|adamw] [--base-width N|0]
[--rates R …] [--steps N] [--precision 32|bf16] [--out FILE]`. The configuration's last stage, text and generated charts, from
new weights and with all that it trains; a short warm-up, then a cosine. A training's figure is the loss of a token on batches
behind those it has learned from. Each is written to FILE as it ends, one JSON object a line.

`figure` is the largest best rate over the smallest (1: it carries over; the bar is 2). A best rate is the minimum of a parabola
through the lowest loss and its neighbours, on log rates; `edge` names the widths whose lowest is the first or last rate, and so
only a bound. With `--base-width 0` rates are plain: what it looks like without.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from tests.bench import measure
from train.config import Config, ScheduleConfig, read_config
from train.coordinates import descend, new_model, optimizer_of, small_batches
from train.optim.at_width import at_width
from train.optim.build import build_schedule
from vlm import VLM, Batch, command

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
SCHEDULE = ScheduleConfig(warmup=0.1)
HELD_OUT = 4  # batches


def trained(config: Config, batches: Sequence[Batch], options: argparse.Namespace) -> VLM:
    """A new model after `options.steps` steps, going round in `batches`."""
    model = new_model(config, torch.device(options.device))
    optimizer = optimizer_of(config, model)
    schedule = build_schedule(optimizer, SCHEDULE, options.steps)
    for step in range(options.steps):
        with autocast(options):
            loss = model(batches[step % len(batches)], with_logits=False).loss
        descend(optimizer, loss, config.optim.clip)
        schedule.step()
    return model


def autocast(options: argparse.Namespace) -> torch.autocast:
    device = torch.device(options.device).type
    return torch.autocast(device, torch.bfloat16, enabled=options.precision == "bf16")


@torch.no_grad()
def held_out_loss(model: VLM, batches: Sequence[Batch], options: argparse.Namespace) -> float:
    """Mean over learnt tokens, nats; infinite where training has gone astray."""
    model.eval()
    with autocast(options):
        outputs = [model(batch, with_logits=False) for batch in batches]
    loss = float(sum(out.nll for out in outputs) / sum(out.learnt for out in outputs))
    return loss if math.isfinite(loss) else math.inf


def runs(config: Config, options: argparse.Namespace) -> Iterator[measure.Figures]:
    """Width, rate, loss and seconds of each training."""
    models = {width: at_width(config.model, width) for width in options.widths}
    made = small_batches(config, options.batches + HELD_OUT, options.rows, options.length, options.workers)
    batches = [batch.to(options.device) for batch in made]
    stage = dataclasses.replace(config.stages[-1], lr=None)
    for width, model in models.items():
        for rate in options.rates:
            start, optim = time.perf_counter(), dataclasses.replace(config.optim, lr=rate)
            resized = dataclasses.replace(config, model=model, optim=optim, stages=[stage])
            loss = held_out_loss(trained(resized, batches[:-HELD_OUT], options), batches[-HELD_OUT:], options)
            yield {"width": width, "rate": rate, "loss": loss, "seconds": round(time.perf_counter() - start, 1)}


def best_rate(losses: dict[float, float]) -> tuple[float, bool]:
    """Rate → loss: where it is least, and whether that is at the edge of what was tried."""
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    near = rates[max(0, at - 1) : at + 2]
    if len(near) < 3 or not all(math.isfinite(losses[rate]) for rate in near):
        return rates[at], at in (0, len(rates) - 1)
    a, b, _ = np.polyfit(np.log(near), [losses[rate] for rate in near], 2)
    return (math.exp(-b / (2 * a)) if a > 0 else rates[at]), False


def table(found: list[measure.Figures]) -> str:
    """Losses, a line a rate and a column a width."""
    widths = list(dict.fromkeys(run["width"] for run in found))
    losses = {(run["rate"], run["width"]): run["loss"] for run in found}
    lines = [f"{'rate':>10}" + "".join(f"{width:>10}" for width in widths)]
    for rate in dict.fromkeys(run["rate"] for run in found):
        lines.append(f"{rate:>10.3g}" + "".join(f"{losses[rate, width]:>10.4f}" for width in widths))
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    options = measure.parser(__doc__)
    add = options.add_argument
    add("--config", default="configs/vlm.yaml")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    add("--widths", nargs="+", type=measure.positive, default=[128, 512])
    add("--rates", nargs="+", type=float, default=list(RATES))
    add("--kind", choices=("adamw", "muon"), default="adamw")
    add("--base-width", type=int, help="default: the first of --widths; 0: plain rates")
    add("--steps", type=measure.positive, default=200)
    add("--batches", type=measure.positive, default=100, help="that training goes round in")
    add("--rows", type=measure.positive, default=8)
    add("--length", type=measure.positive, default=256)
    add("--workers", type=int, default=0, help="processes that make the batches")
    add("--precision", choices=("32", "bf16"), default="32")
    add("--out", type=Path, default=Path("runs/width_transfer.jsonl"))
    return measure.parse(options, arguments)


def main(arguments: list[str] | None = None) -> measure.Figures:
    options = parse(arguments)
    base = options.widths[0] if options.base_width is None else options.base_width
    overrides = [f"optim.kind={options.kind}", f"optim.base_width={base or 'null'}"]
    config = read_config(options.config, [*options.set, *overrides])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = []
    with options.out.open("a") as file:
        for run in runs(config, options):
            found.append(run)
            file.write(json.dumps({"kind": options.kind, "base_width": base, **run}) + "\n")
            file.flush()
    print(table(found))
    best = {w: best_rate({r["rate"]: r["loss"] for r in found if r["width"] == w}) for w in options.widths}
    rates = [rate for rate, _ in best.values()]
    line = {"unit": "largest best rate over the smallest", "figure": measure.rounded(max(rates) / min(rates)), "runs": found}
    line |= {
        "best": {width: measure.rounded(rate) for width, (rate, _) in best.items()},
        "edge": [width for width, (_, at_edge) in best.items() if at_edge],
    }
    settings = {name: getattr(options, name) for name in ("kind", "steps", "batches", "rows", "length", "precision")}
    return measure.emit("width_transfer", options, line, settings | {"base_width": base, "file": options.config})


if __name__ == "__main__":
    command.run(main)
