"""Rates and starts by which the best `optim.lr` stays where it is as a model grows wider (muP; Yang et al., 2022, table 3).

The same model is built at `optim.base_width` on the meta device, and each weight is compared with its own there: what a side
has grown by is then known for any encoder, with nothing listed by hand. With r the growth of a weight's fan-in, and AdamW:

    tables, kernels over pixels, vectors   rate 1, start as ever
    hidden matrices                        rate 1/r, start fan_in^-1/2 as ever
    router                                 rate 1/r, start 1/sqrt(r) times what it was
    token table and head                   rate 1, start base_width^-1/2
    last norm's weight                     rate 1/r, start 1/r: it is what multiplies the logits of a head, tied or not

AdamW moves each number by the same, which adds up over the fan-in: hence 1/r. Muon's update has to have a spectral norm that
goes as sqrt(fan_out / fan_in) (Yang, Simon and Bernstein, 2023, condition 1). `Matrix.scale` makes it 0.2 sqrt(max(m, n)), so a
matrix learns at sqrt(b / (a c)) where its fan-in has grown by a, its fan-out by b and its longer side by c.

All of this stands in weights and rates, so the network is as any other and so is a saved model. The cost: last norms of
different widths cannot be compared, and weights from a file (`init_from`) keep the starts that they had. A weight's decay in a
step, its rate times `weight_decay`, stays what it was: `weight_decay` is divided by the rate's factor (as Wang and Aitchison,
2024). An encoder starts as its library makes it: by fan_in^-1/2 in open_clip and in timm's ViT; a timm family with one
deviation for all widths starts too wide.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from train.optim.at_width import at_width
from train.optim.matrices import Matrix, matrices
from vlm.config import ModelConfig
from vlm.meta import on_meta
from vlm.model import GROUPS, VLM
from vlm.moe import Router


class Widths:
    """How each weight of `model` has grown from `base_width`. Raises `ValueError` for a width that the model cannot have."""

    def __init__(self, model: VLM, base_width: int) -> None:
        base = _at_base(model, base_width)
        theirs = dict(base.named_parameters())
        self._base = {id(p): theirs[name] for name, p in model.named_parameters()}
        self._base_matrices = {id(m.weight): m for name in GROUPS for m in matrices(base.group(name))}
        self._rows = {id(model.decoder.head_weight)}  # of tokens
        self._last_norm = id(model.decoder.norm.weight)
        self._stream = model.decoder.config.dim / base_width

    def adamw(self, weight: nn.Parameter, *, is_matrix: bool) -> float:
        """The factor of a weight's rate. `is_matrix`: no vector or table, whose rates do not go by width."""
        if id(weight) == self._last_norm:
            return 1 / self._stream
        if not is_matrix or id(weight) in self._rows:
            return 1.0
        return self._base[id(weight)].shape[1] / weight.shape[1]  # [out, in, …], and stacked experts [E, in, out]

    def muon(self, matrix: Matrix) -> float:
        """The factor of the rate of a matrix that Muon takes."""
        base = self._base_matrices[id(self._base[id(matrix.weight)])]
        (fan_in, fan_out), (base_in, base_out) = matrix.fans, base.fans
        return math.sqrt(fan_out / base_out * base_in / fan_in * max(base.fans) / max(matrix.fans))


@torch.no_grad()
def start_at_width(model: VLM, base_width: int) -> None:
    """Bring new weights, made by `reset_parameters`, to the starts above; at `base_width` they stay as they are."""
    at_width(model.config, base_width)
    decoder, growth = model.decoder, model.decoder.config.dim / base_width
    for table in {decoder.embedding.weight, decoder.head_weight}:
        table.mul_(growth**0.5)
    decoder.norm.weight.div_(growth)
    for router in (module for module in decoder.modules() if isinstance(module, Router)):
        router.weight.div_(growth**0.5)


def check_base(config: ModelConfig, base_width: int) -> None:
    """Raise `ValueError` where the model at the base width would not have the same weights, so that some have no growth."""
    own, base = _on_meta(config), _on_meta(at_width(config, base_width))
    weights = {name for name, _ in own.named_parameters()} ^ {name for name, _ in base.named_parameters()}
    for name in sorted(weights | (_names_of_matrices(own) ^ _names_of_matrices(base))):
        raise ValueError(f"at width {base_width} the model would not have the same weights ({name}): choose another width")


def _names_of_matrices(model: VLM) -> set[str]:
    taken = {id(m.weight) for name in GROUPS for m in matrices(model.group(name))}
    return {name for name, p in model.named_parameters() if id(p) in taken}


def _at_base(model: VLM, base_width: int) -> VLM:
    return _on_meta(at_width(model.config, base_width))


def _on_meta(config: ModelConfig) -> VLM:
    with on_meta():
        return VLM(dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, pretrained=None)))
