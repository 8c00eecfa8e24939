"""Tokens a second of training a mixture-of-experts text decoder, beside Mixtral and torchtitan's Qwen3-MoE of the same shape.

`python -m tests.bench.moe_train [--peer] [--experts 128 --expert-dim 256 --top-k 16] [--balanced]`. The whole step counts:
forward, loss, backward, optimizer. Weights, gradients and moments are bfloat16 on a GPU (`run.precision: bf16-true`). Routers
choose freely unless `--balanced` forces them, ours and the peers', to an even load.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

import torch
import torch.nn.functional as F

from tests.bench import arithmetic, measure, training
from tests.bench.batches import text_batch
from tests.bench.shapes import MOE, Text
from vlm import Batch, command

PEERS = ("mixtral", "titan")


def mixtral(shape: Text, batch: Batch, options: argparse.Namespace) -> measure.Figures:
    from tests.bench.peers import mixtral as peer

    device = options.device
    model = peer.mixtral(shape.decoder, shape.length, device, measure.dtype_of(device), options.mixtral_experts)
    if options.balanced:
        peer.balance(model)
    if options.compile:
        for layer in model.model.layers:  # compiled whole, it makes a mask of all scores, for which attention is slow
            layer.compile()
    tokens, labels = batch.tokens, batch.labels
    step = training.peer_step(
        model.parameters(), lambda: model(input_ids=tokens, shift_labels=labels, labels=labels, use_cache=False).loss
    )
    return training.run(step, tokens.numel(), options)


def titan(shape: Text, batch: Batch, options: argparse.Namespace) -> measure.Figures:
    from tests.bench.peers import titan as peer

    device, compiled = options.device, options.compile
    model = peer.titan(
        shape.decoder, shape.length, device, measure.dtype_of(device), balanced=options.balanced, compiled=compiled
    )
    tokens, labels = batch.tokens, batch.labels

    def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    loss_of = torch.compile(cross_entropy) if compiled else cross_entropy  # as torchtitan's own
    step = training.peer_step(model.parameters(), lambda: loss_of(model(tokens)))
    return training.run(step, tokens.numel(), options)


def shape_of(options: argparse.Namespace) -> Text:
    shape = MOE[options.shape]
    changes = {"num_experts": options.experts, "expert_dim": options.expert_dim, "top_k": options.top_k}
    decoder = dataclasses.replace(shape.decoder, **{name: value for name, value in changes.items() if value})
    return dataclasses.replace(shape, decoder=decoder, rows=options.rows or shape.rows, length=options.length or shape.length)


def main(arguments: list[str] | None = None) -> measure.Figures:
    parser = measure.parser(__doc__, PEERS)
    parser.add_argument("--rows", type=measure.positive)
    parser.add_argument("--length", type=measure.positive, help="tokens a row")
    parser.add_argument("--experts", type=measure.positive)
    parser.add_argument("--expert-dim", type=measure.positive)
    parser.add_argument("--top-k", type=measure.positive)
    parser.add_argument("--balanced", action="store_true", help="routing forced to balance, on all sides")
    parser.add_argument("--mixtral-experts", default="grouped_mm", help="transformers' experts_implementation")
    options = measure.parse(parser, arguments)
    shape = shape_of(options)
    batch = text_batch(shape.decoder.vocab_size, shape.rows, shape.length, options.device, options.seed)
    limits = measure.limits(options.device)
    found = training.our_text(shape, batch, options, balanced=options.balanced)
    runs = {"mixtral": mixtral, "titan": titan}
    peers = measure.beside({name: partial(runs[name], shape, batch, options) for name in options.peer}, options.device)
    flops = arithmetic.text_flops(shape.decoder, shape.length)
    line = {"unit": "tokens/s", **found, "peers": peers, "limits": limits}
    line |= measure.against(found, peers, flops, limits["flops"])
    config = {"rows": shape.rows, "length": shape.length, "decoder": dataclasses.asdict(shape.decoder)}
    config |= {"balanced": options.balanced, "flops_a_token": flops, "peers": "no auxiliary losses, torch's fused AdamW"}
    return measure.emit("moe_train", options, line, config)


if __name__ == "__main__":
    command.run(main)
