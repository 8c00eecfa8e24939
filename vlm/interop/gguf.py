"""Models of llama.cpp: a GGUF file of the architecture `llama` (Llama, Mistral and Mixtral, SmolLM2, …) → `TextDecoder`.

What differs from the published weights is undone: rows of queries and keys lie in pairs (i, i + 1) where Llama turns
(i, i + h/2), and experts are stacked, or numbered in older files. Every tensor of the file is used or named as left over.
Quantised weights are unpacked one at a time, straight into the type asked for.

E experts, D model width, F expert width, h head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoders.weights import check_weights
from vlm.config import DecoderConfig
from vlm.decoder import TextDecoder
from vlm.interop.gguf_config import ATTENTION, read_config
from vlm.interop.gguf_file import GGUFFile
from vlm.meta import on_meta

WHOLE = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
STORED = {"F16": torch.float16, "BF16": torch.bfloat16}
OF_THE_HEADER = {"rope_freqs.weight"}
LAYER = {
    "attention_norm.weight": "attn_norm.weight",
    "moe_norm.weight": "ffn_norm.weight",
    "moe.router.weight": "ffn_gate_inp.weight",
}
Make = Callable[[list[Tensor]], Tensor]  # tensors of the file → one of ours, on any device


def _single(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _zeros(tensors: list[Tensor], size: int) -> Tensor:
    return torch.zeros(size)


def _unturned(tensors: list[Tensor], heads: int) -> Tensor:
    """Rows [H·h, ...] from pairs (i, i + 1) to pairs (i, i + h/2), head by head."""
    return tensors[0].unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _side_by_side(tensors: list[Tensor], groups: int, stacked: bool) -> Tensor:
    """`groups` projections of E experts (gate and up, or down alone) → [E, in, out of all]; biases [E, out of all]."""
    size = len(tensors) // groups
    parts = [tensors[i] if stacked else torch.stack(tensors[i : i + size]) for i in range(0, len(tensors), size)]
    return torch.cat([part.mT if part.ndim == 3 else part for part in parts], dim=-1)


def load_gguf(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32) -> TextDecoder:
    """The model of a GGUF file, in eval mode, in `dtype`; `None`: in that of its embedding table, float32 if it is quantised.
    Its tokenizer: `read_gguf_text`.

    Raises `ValueError` in one line for a file that is damaged, of another architecture or does not fit its own header, and
    `ImportError` with the install line where the package gguf is missing.
    """
    file = GGUFFile(path)
    config = read_config(file)
    layout = _Layout(file, config)
    try:
        with on_meta():
            model = TextDecoder(config)
    except (RuntimeError, OverflowError, TypeError):
        raise ValueError(f"{path} is damaged: no machine has room for the sizes in its header") from None
    check_weights(model, layout.shapes, path)  # before memory is taken
    dtype = dtype or STORED.get(file.tensors["token_embd.weight"].kind, torch.float32)
    weights = {name: layout.read(name).to(device=device, dtype=dtype) for name in model.state_dict()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


class _Layout:
    """Which tensors of the file make each of ours, and how. One that misses is left out and one that nothing takes keeps
    its own name, for `check_weights` to say so."""

    def __init__(self, file: GGUFFile, config: DecoderConfig) -> None:
        self.file, self.config = file, config
        self.shapes: dict[str, Tensor] = {}  # on the meta device
        self._sources: dict[str, tuple[Sequence[str], Make]] = {}
        for ours, theirs in WHOLE.items():
            self._put(ours, [theirs])
        for layer in range(config.num_layers):
            self._layer(f"layers.{layer}.", f"blk.{layer}.")
        used = {name for names, _ in self._sources.values() for name in names}
        for name in file.tensors.keys() - used - OF_THE_HEADER:
            self._put(name, [name])

    def read(self, ours: str) -> Tensor:
        """One of our tensors, in float32 and in memory of its own."""
        names, make = self._sources[ours]
        return make([torch.from_numpy(np.require(self.file.read(name), requirements=["C", "W"])) for name in names])

    def _layer(self, ours: str, theirs: str) -> None:
        for name, source in LAYER.items():
            self._put(ours + name, [theirs + source])
        heads = {"query": self.config.num_heads, "key": self.config.num_kv_heads}
        for name, source in ATTENTION.items():
            make = partial(_unturned, heads=heads[name]) if name in heads else _single
            for kind in ("weight", "bias"):
                self._put(f"{ours}attention.{name}.{kind}", [f"{theirs}{source}.{kind}"], make)
        output = self.file.tensors.get(f"{theirs}attn_output.weight")
        if self.config.attention_bias and output and f"{theirs}attn_output.bias" not in self.file.tensors:  # as Qwen's
            self._put(f"{ours}attention.out.bias", [], partial(_zeros, size=output.shape[0]))
        for kind, ending in (("weight", ""), ("bias", "_bias")):
            self._experts(f"{ours}moe.experts.gate_up{ending}", kind, f"{theirs}ffn_gate", f"{theirs}ffn_up")
            self._experts(f"{ours}moe.experts.down{ending}", kind, f"{theirs}ffn_down")

    def _experts(self, ours: str, kind: str, *modules: str) -> None:
        stacked = [f"{module}_exps.{kind}" for module in modules]
        if stacked[0] in self.file.tensors:
            return self._put(ours, stacked, partial(_side_by_side, groups=len(modules), stacked=True))
        experts = self.config.num_experts
        named = (f".{e}" for e in range(experts)) if experts > 1 else iter([""])
        numbers = list(takewhile(lambda number: f"{modules[0]}{number}.{kind}" in self.file.tensors, named))
        if len(numbers) < experts:  # no list of names longer than the file's own: the header may claim any number
            return None
        names = [f"{module}{number}.{kind}" for module in modules for number in numbers]
        return self._put(ours, names, partial(_side_by_side, groups=len(modules), stacked=False))

    def _put(self, ours: str, theirs: Sequence[str], make: Make = _single) -> None:
        if not all(name in self.file.tensors for name in theirs):
            return
        shapes = [self.file.tensors[name].shape for name in theirs]
        try:
            self.shapes[ours] = make([torch.empty(shape, device="meta") for shape in shapes])
        except RuntimeError:
            raise ValueError(f"{self.file.path}: {theirs[0]} of shape {shapes[0]} does not fit the header") from None
        self._sources[ours] = theirs, make
