"""Dense → mixture of experts (Komatsuzaki et al., 2022): each expert starts as a copy of the feed-forward whose place it takes.

The router is new, with small random weights, and the weights of the chosen experts sum to 1: k copies of one function in any
mixture are that function, so the model computes what it did. But copies part ways slowly in training. Two things help, and
cost this: `noise` on each copy, and `reinit`, a share of each expert's hidden units drawn anew (drop-upcycling, Nakamura et
al., 2025): the same units in gate, up and down, from a normal of the mean and deviation of the matrix that they stand in.

E experts, D model width, F expert width.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TypeVar, cast

import torch
from torch import Tensor

from vlm.config import DecoderConfig
from vlm.decoder import TextDecoder
from vlm.meta import on_meta
from vlm.model import VLM
from vlm.moe import Experts, MoE

MAX_EXPERTS = 1 << 12
ROUTER_STD = 0.02  # of the new router's weights (Komatsuzaki et al., 2022, section 3)
Model = TypeVar("Model", bound=TextDecoder | VLM)


def upcycle(
    model: Model,
    experts: int = 8,
    top_k: int = 2,
    noise: float = 0.0,
    reinit: float = 0.0,
    seed: int = 0,
    every: int = 1,
) -> Model:
    """A new model with `experts` experts in every `every`-th layer, counted so that the last of each `every` has them.

    `noise` is relative to each matrix's deviation; `reinit` is the share of hidden units, 0 to 1, drawn anew in each expert.
    The same seed gives the same weights on any device. `model` is left as it is. Raises `ValueError` for one that has experts
    already and for options out of range.
    """
    decoder = model.decoder if isinstance(model, VLM) else model
    config = _config(decoder.config, experts, top_k, every)
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise {noise} is not 0 or more")
    if not 0 <= reinit <= 1:
        raise ValueError(f"reinit {reinit} is not between 0 and 1")
    routed = [layer for layer in range(config.num_layers) if config.is_moe(layer)]
    dense = {layer: cast(MoE, decoder.layers[layer].moe) for layer in routed}
    grown = copy.deepcopy(model, memo={id(moe): moe for moe in dense.values()})  # these are replaced
    new = grown.decoder if isinstance(grown, VLM) else grown
    generator = torch.Generator().manual_seed(seed)
    for layer, moe in dense.items():
        new.layers[layer].moe = _grow(moe, config, layer, noise, reinit, generator)
    new.config = config
    if isinstance(grown, VLM):
        grown.config = dataclasses.replace(grown.config, decoder=config)
    return grown


def _config(config: DecoderConfig, experts: int, top_k: int, every: int) -> DecoderConfig:
    if config.num_experts > 1:
        raise ValueError(f"the model is a mixture of {config.num_experts} experts already: only a dense one can be upcycled")
    if not 2 <= experts <= MAX_EXPERTS:
        raise ValueError(f"experts {experts} is not between 2 and {MAX_EXPERTS}")
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k {top_k} is not between 1 and experts {experts}")
    if not 1 <= every <= config.num_layers:
        raise ValueError(f"every {every} is not between 1 and the number of layers, {config.num_layers}")
    stay = {layer for layer in range(config.num_layers) if (layer + 1) % every}
    if config.dense_layers and {config.ffn_dim(layer) for layer in stay} - {config.ffn_dim(config.dense_layers[0])}:
        raise ValueError(f"dense_layers {config.dense_layers} have a width of their own: no other layer can stay dense")
    return dataclasses.replace(
        config,
        num_experts=experts,
        top_k=top_k,
        dense_layers=tuple(sorted(stay | set(config.dense_layers))),
        shared_dim=0,  # a dense model has none
        router="softmax",
        normalize_top_k=True,
        routed_scale=1.0,
    )


def _grow(dense: MoE, config: DecoderConfig, layer: int, noise: float, reinit: float, generator: torch.Generator) -> MoE:
    """The layer's experts, of the type, device and mode of its feed-forward."""
    with on_meta():
        moe = MoE(config, layer)
    source = dense.experts.down
    weights = {name: _zeros(t, source) for name, t in moe.state_dict().items()}
    weights["router.weight"] = torch.randn(weights["router.weight"].shape, generator=generator).mul_(ROUTER_STD).to(source)
    for expert in range(config.num_experts):
        ours = _copy(dense.experts, noise, reinit, generator)
        for name, tensor in ours.items():
            weights[f"experts.{name}"][expert] = tensor
    moe.load_state_dict(weights, assign=True)
    return moe.requires_grad_(source.requires_grad).train(dense.training)


def _zeros(like: Tensor, source: Tensor) -> Tensor:
    """The balance bias stays float32, whatever the weights are."""
    return torch.zeros(like.shape, dtype=source.dtype if like.ndim > 1 else like.dtype, device=source.device)


@torch.no_grad()
def _copy(dense: Experts, noise: float, reinit: float, generator: torch.Generator) -> dict[str, Tensor]:
    """One expert: gate_up [D, 2F], down [F, D] and their biases, with noise and new units."""
    units = torch.randperm(dense.down.shape[1], generator=generator)[: round(reinit * dense.down.shape[1])]
    out = {}
    for name, parameter in dense.named_parameters():
        halves = parameter[0].chunk(2, dim=-1) if name.startswith("gate_up") else (parameter[0],)
        axis = {"down": 0, "down_bias": None}.get(name, -1)  # where the hidden units are
        out[name] = torch.cat([_perturb(half, axis, units, noise, generator) for half in halves], dim=-1)
    return out


def _perturb(weight: Tensor, axis: int | None, units: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if not noise and not len(units):
        return weight
    out = weight.float().cpu()
    mean, std = out.mean(), out.std(correction=0)
    if noise:
        out = out + noise * std * torch.randn(out.shape, generator=generator)
    if axis is not None and len(units):
        shape = list(out.shape)
        shape[axis] = len(units)
        out = out.index_copy(axis, units, mean + std * torch.randn(shape, generator=generator))
    return out.to(weight)
