"""The default run's network on its own data: training beside a plain version of it, writing beside recomputing.

`python -m tests.bench.default_config [--config configs/vlm.yaml] [--threads 2]`. The peers are on the same weights: `plain` is
the network as its papers write it (plain.py) with the same optimizer settings; `recomputing` reads prompt and text anew,
picture and all, for each token, with our own network. One line for training, one for writing.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tests.bench import arithmetic, measure, plain, training
from tests.bench.batches import image_batch
from tests.bench.real import batches
from train.config import read_config
from train.optim.groups import parameter_groups
from vlm import VLM, Batch, command

STEPS = {"tiny": 2, "small": 8, "anchor": 8}  # batches that training goes round in
LENGTHS = {"tiny": (8, 4), "small": (128, 96), "anchor": (128, 96)}  # tokens of the prompt, and new ones
GROUPS = ("encoder", "resampler", "fusion", "decoder")


def plain_step(model: VLM, turns: Iterator[Batch]) -> training.Step:
    groups = parameter_groups(model, dict.fromkeys(GROUPS, 1.0), training.LR, 0.1)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    return training.step_of(optimizer, lambda: plain.loss(model, next(turns)))


def our_step(model: VLM, turns: Iterator[Batch]) -> training.Step:
    return training.vlm_step(model, turns, GROUPS)


def recompute(model: VLM, batch: Batch, new: int) -> Tensor:
    """[B, T + new] greedy, without a cache, of rows without padding and with their last picture seen."""
    for _ in range(new):
        with torch.no_grad():
            token = model.decoder.logits(model.hidden(batch).states[:, -1]).argmax(dim=-1, keepdim=True)
        longer = {"tokens": token, "labels": token, "positions": batch.positions[:, -1:] + 1}
        longer |= {name: getattr(batch, name)[:, -1:] for name in ("document", "image_index")}
        batch = dataclasses.replace(batch, **{name: torch.cat((getattr(batch, name), t), 1) for name, t in longer.items()})
    return batch.tokens


def flops_a_token(model: VLM, data: list[Batch]) -> float:
    """With documents and pictures as many and as long as the data's are in the mean."""
    tokens = sum(batch.tokens.numel() for batch in data)
    documents = sum(int((batch.positions == 0).sum()) for batch in data)
    images = sum(batch.num_media for batch in data)
    return arithmetic.image_text_flops(model.config, tokens / documents, images / documents, GROUPS)


def train(model: VLM, data: list[Batch], options: argparse.Namespace) -> measure.Figures:
    tokens, limits, peer = data[0].tokens.numel(), measure.limits(options.device), copy.deepcopy(model)

    def paced(step_of: Callable[[VLM, Iterator[Batch]], training.Step], network: VLM) -> measure.Figures:
        return training.run(step_of(network, itertools.cycle(data)), tokens, options, len(data))

    ours = paced(our_step, training.compiled(model, options))
    peers = measure.beside({"plain": lambda: paced(plain_step, peer)}, options.device)
    line = {"unit": "tokens/s", "work": "training", **ours, "peers": peers, "limits": limits}
    line |= measure.against(ours, peers, flops_a_token(peer, data), limits["flops"])
    return measure.emit("default_config", options, line, {"config": options.config, "stage": options.stage})


def write(model: VLM, options: argparse.Namespace) -> measure.Figures:
    prompt, new = LENGTHS[options.shape]
    config, model = model.config, model.eval()
    size = config.encoder.image_size
    batch = image_batch(config.decoder.vocab_size, 1, prompt, 1, size, options.device, options.seed)
    ways = {
        "ours": lambda: model.generate(batch, max_new_tokens=new, stop_ids=()).tokens,
        "recomputing": lambda: recompute(model, batch, new)[:, prompt:].tolist(),
    }
    same = ways["ours"]() == ways["recomputing"]()
    limits = measure.limits(options.device)

    def paced(way: Callable[[], object]) -> measure.Figures:
        return measure.timing(way, options.device, windows=options.windows, calls=1, warm=1).figures(new)

    ours, peers = paced(ways["ours"]), {"recomputing": paced(ways["recomputing"])}
    cost = arithmetic.decode_bytes(config, 1, prompt + new / 2, measure.dtype_of(options.device).itemsize)
    line = {"unit": "tokens/s", "work": "writing", **ours, "peers": peers, "limits": limits, "same_tokens": same}
    line |= measure.against(ours, peers, cost, limits["bytes"])
    about = {"config": options.config, "prompt": prompt, "new_tokens": new}
    return measure.emit("default_config", options, line, about)


def main(arguments: list[str] | None = None) -> list[measure.Figures]:
    parser = measure.parser(__doc__)
    parser.add_argument("--config", default="configs/vlm.yaml")
    parser.add_argument("--stage", default="tune")
    parser.add_argument("--set", nargs="*", default=[], help="key=value, as in training")
    options = measure.parse(parser, arguments)
    config = read_config(options.config, options.set)
    data = batches(config, options.stage, STEPS[options.shape], options.device)
    with torch.device(options.device):
        model = VLM(config.model).to(measure.dtype_of(options.device))
    return [train(copy.deepcopy(model), data, options), write(model, options)]


if __name__ == "__main__":
    command.run(main)
