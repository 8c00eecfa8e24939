"""One training step, ours and its peers': the same tokens, AdamW with the same settings, no clipping.

All tokens are learnt. Ours makes its loss as in training, router losses included; a peer's is its own. Each
starts as its authors start it, so losses tell that a model learns and not which learns better.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import TypeVar

import torch
from torch import Tensor, nn

from tests.bench.measure import Figures, clean, dtype_of, timing
from tests.bench.routing import force_balance
from tests.bench.shapes import Text
from train.config import OptimConfig
from train.optim.build import build_optimizer
from train.optim.groups import freeze
from vlm import VLM, Batch, DecoderConfig, ModelConfig, TextDecoder
from vlm.compile import compile_blocks
from vlm.losses import nll_sum, total_loss
from vlm.moe import Router

Model = TypeVar("Model", VLM, TextDecoder)
Step = Callable[[], Tensor]
LR = 1e-4  # constant


@dataclass(frozen=True)
class Alone:
    """A decoder in the place of a whole model, for what asks a model for its parts."""

    decoder: TextDecoder

    def group(self, name: str) -> nn.Module:
        return getattr(self, name)


def our_decoder(config: DecoderConfig, options: argparse.Namespace, *, balanced: bool = False) -> TextDecoder:
    with torch.device(options.device):
        decoder = TextDecoder(config).to(dtype_of(options.device))
    if balanced:
        force_balance((m for m in decoder.modules() if isinstance(m, Router)), config.num_experts)
    return compiled(decoder, options)


def our_model(config: ModelConfig, options: argparse.Namespace) -> VLM:
    with torch.device(options.device):
        return compiled(VLM(config).to(dtype_of(options.device)), options)


def compiled(model: Model, options: argparse.Namespace) -> Model:
    if options.compile:
        compile_blocks(model, options.activation_memory)
    return model


def text_loss(decoder: TextDecoder, batch: Batch) -> Callable[[], Tensor]:
    learnt = torch.tensor(batch.extent.learnt, device=batch.labels.device)

    def loss_of() -> Tensor:
        hidden = decoder.hidden(batch.tokens)
        nll = nll_sum(hidden.states, batch.labels, decoder.head_weight, batch.extent.learnt)
        return total_loss(nll, learnt, hidden.router, decoder.config)

    return loss_of


def text_step(decoder: TextDecoder, batch: Batch) -> Step:
    return step_of(build_optimizer(Alone(decoder), {"decoder": 1.0}, OptimConfig(), LR), text_loss(decoder, batch))


def vlm_step(model: VLM, batches: Iterator[Batch], train: Collection[str]) -> Step:
    """On one batch after the other. `train`: the groups that learn."""
    rates = dict.fromkeys(train, 1.0)
    freeze(model, rates)
    optimizer = build_optimizer(model, rates, OptimConfig(), LR)
    return step_of(optimizer, lambda: model(next(batches), with_logits=False).loss)


def peer_step(parameters: Iterable[nn.Parameter], loss_of: Callable[[], Tensor]) -> Step:
    """With `torch.optim.AdamW` of the same settings."""
    defaults = OptimConfig()
    learn = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, LR, defaults.betas, defaults.eps, defaults.weight_decay, fused=True)

    return step_of(optimizer, loss_of)


def step_of(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> Step:
    def step() -> Tensor:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def run(step: Step, tokens: int, options: argparse.Namespace, round_of: int = 1) -> Figures:
    """Tokens a second, with the first and the last loss to show that it learns. `round_of`: batches that the step goes round
    in, all of which each window sees."""
    first = step().item()
    found = timing(step, options.device, windows=options.windows, calls=options.calls * round_of, warm=3 * round_of)
    found = found.figures(tokens)
    return found | {"loss": [round(first, 4), round(step().item(), 4)]}


def our_text(shape: Text, batch: Batch, options: argparse.Namespace, *, balanced: bool = False) -> Figures:
    clean(options.device)
    decoder = our_decoder(shape.decoder, options, balanced=balanced)
    return run(text_step(decoder, batch), batch.tokens.numel(), options)


def our_vlm(config: ModelConfig, batch: Batch, train: Collection[str], options: argparse.Namespace) -> Figures:
    clean(options.device)
    return run(vlm_step(our_model(config, options), repeat(batch), train), batch.tokens.numel(), options)
