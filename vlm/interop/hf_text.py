"""Weights of the text families: each of their tensors as a view of the part of ours that holds it, for reading and for writing.

Experts are numbered (`experts.0.w1.weight` of Mixtral, `experts.0.gate_proj.weight`: as published, and as we write them) or
stacked (`experts.gate_up_proj`, transformers 5 in memory). Reading builds the model without memory, holds its shapes against
the headers, and then fills it one layer at a time, so that there is never a second copy of the weights.

E experts, D model width, F expert width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from encoders.weights import check_weights
from vlm.config import DecoderConfig
from vlm.decoder import DecoderLayer, TextDecoder
from vlm.files import Weights, write_json, write_weights
from vlm.interop.hf_config import misfits, read_config, write_config
from vlm.interop.hf_families import FAMILIES, Family
from vlm.interop.text import TextFiles, write_text_files
from vlm.meta import on_meta
from vlm.moe import Experts

ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
DENSE_PARTS = ("gate_proj", "up_proj", "down_proj")
STRIP = 16  # rows of a matrix transposed at a time: within the processor's cache it goes five times as fast
TABLES = ".rotary_emb.inv_freq"  # of rotary positions, in old files: made anew from the config


@dataclass(frozen=True)
class Form:
    """How a file names what varies: a prefix of all names but the head's, the block of the experts, and the parts of each."""

    prefix: str
    block: str
    parts: tuple[str, str, str] | None  # gate, up, down of numbered experts; None: stacked
    lone: bool = False  # a single expert goes by the names of many

    @classmethod
    def of(cls, family: Family) -> Form:
        """The published one."""
        return cls("model.", family.block, family.parts)

    @classmethod
    def find(cls, names: Mapping[str, object], family: Family) -> Form:
        """The one in which a file is written."""
        prefix = "model." if any(name.startswith("model.") for name in names) else ""
        down = next((n for n in names if ".experts." in n and n.endswith(("down_proj", "down_proj.weight", "w2.weight"))), None)
        if down is None:
            return cls(prefix, family.block, family.parts)
        block, rest = down.split(".experts.", 1)
        lone = not any(".experts.1." in name for name in names)
        parts = None if rest == "down_proj" else ("w1", "w3", "w2") if rest.endswith("w2.weight") else DENSE_PARTS
        return cls(prefix, block.rpartition(".")[2], parts, lone)

    def is_dense(self, layer: int, config: DecoderConfig) -> bool:
        """Has the layer one feed-forward, which is not named as an expert?"""
        return layer in config.dense_layers or (config.num_experts == 1 and not self.lone)


def load_text(directory: Path, raw: Mapping, device: torch.device, dtype: torch.dtype | None) -> TextDecoder:
    """The model of a directory whose config.json is `raw`. Raises as `vlm.interop.load_hf`."""
    family = FAMILIES[raw["model_type"]]
    try:
        config = read_config(raw, family)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from None
    weights = Weights(directory)
    form = Form.find(weights, family)
    if config.num_layers > len(weights) or (form.parts and _num_routed(config) > len(weights)):
        what = f"{config.num_layers} layers with {config.num_experts} experts"
        raise ValueError(f"{weights.source} has {len(weights)} tensors; config.json says {what}")
    if config.tie_embeddings and not _head_is_embedding(weights, form):
        config = dataclasses.replace(config, tie_embeddings=False)  # as transformers 5: what the file holds goes first
    with on_meta():
        model = TextDecoder(config)
    _check(model, weights, family, form)
    model.to(dtype or weights[form.prefix + EMBEDDING].dtype)
    for part, views in _parts(model, family, form):
        part.to_empty(device=device)
        _fill(views(), weights)
    if family.attention_bias:
        for layer in _layers(model):
            nn.init.zeros_(layer.attention.out.bias)
    return model.eval()


def _layers(model: TextDecoder) -> list[DecoderLayer]:
    return [cast(DecoderLayer, layer) for layer in model.layers]


def _num_routed(config: DecoderConfig) -> int:
    return config.num_experts * sum(map(config.is_moe, range(config.num_layers)))


def _head_is_embedding(weights: Weights, form: Form) -> bool:
    """Does a tied model's file hold no head of its own? Many hold the table twice."""
    table = form.prefix + EMBEDDING
    if HEAD not in weights or table not in weights or weights.shape(HEAD) != weights.shape(table):
        return True
    return torch.equal(weights[HEAD].to(weights[table].dtype), weights[table])


def _check(model: TextDecoder, weights: Weights, family: Family, form: Form) -> None:
    """Before memory is taken. A single expert's router chooses nothing: it is left where it is."""
    own = {name: view for _, views in _parts(model, family, form) for name, view in views().items()}
    router = f".{form.block}.gate.weight" if model.config.num_experts == 1 else TABLES
    unread = {name for name in weights if name.endswith((TABLES, router))}
    if model.head is None and HEAD in weights and weights.shape(HEAD) == tuple(model.embedding.weight.shape):
        unread.add(HEAD)
    found = {name: torch.empty(weights.shape(name), device="meta") for name in weights if name not in unread}
    check_weights(own, found, weights.source)


@torch.no_grad()
def _fill(views: Mapping[str, Tensor], weights: Weights) -> None:
    for name, view in views.items():
        stored = weights[name].to(view.device)
        strips = STRIP if stored.is_cpu and not view.is_contiguous() else len(view)
        for part, rows in zip(view.split(strips), stored.split(strips), strict=True):
            part.copy_(rows)
    weights.release()


def _parts(model: TextDecoder, family: Family, form: Form) -> Iterator[tuple[nn.Module, Callable[[], dict[str, Tensor]]]]:
    """Each part of the model, with what gives the views of its tensors once it has memory."""
    outer: dict[str, nn.Module] = {form.prefix + EMBEDDING: model.embedding, form.prefix + "norm.weight": model.norm}
    outer |= {} if model.head is None else {HEAD: model.head}
    for name, module in outer.items():
        yield module, partial(_weight_view, name, module)
    for i, layer in enumerate(_layers(model)):
        prefix = f"{form.prefix}layers.{i}."
        yield layer, partial(_layer_views, prefix, layer, family, form, form.is_dense(i, model.config))


def _weight_view(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {name: module.get_parameter("weight")}


def llama_views(prefix: str, layer: DecoderLayer) -> dict[str, Tensor]:
    """The tensors of a layer as a Llama names them: other families build on these."""
    llama = FAMILIES["llama"]
    return _layer_views(prefix, layer, llama, Form.of(llama), dense=True)


def _layer_views(prefix: str, layer: DecoderLayer, family: Family, form: Form, dense: bool) -> dict[str, Tensor]:
    found = _attention_views(layer, family) | _feed_forward_views(layer, form, dense)
    return {prefix + name: view for name, view in found.items()}


def _attention_views(layer: DecoderLayer, family: Family) -> dict[str, Tensor]:
    attention = layer.attention
    found: dict[str, Tensor] = {
        "input_layernorm.weight": layer.attention_norm.weight,
        "post_attention_layernorm.weight": layer.moe_norm.weight,
    }
    for ours, theirs in ATTENTION.items():
        linear = getattr(attention, ours)
        found[f"self_attn.{theirs}.weight"] = linear.weight
        if linear.bias is not None and not (family.attention_bias and ours == "out"):
            found[f"self_attn.{theirs}.bias"] = linear.bias
    if family.query_key_norm != "none":
        found |= {"self_attn.q_norm.weight": attention.query_norm.weight, "self_attn.k_norm.weight": attention.key_norm.weight}
    return found


def _feed_forward_views(layer: DecoderLayer, form: Form, dense: bool) -> dict[str, Tensor]:
    if dense:
        return _expert_views("mlp.", layer.moe.experts, 0, DENSE_PARTS)
    router = layer.moe.router
    found: dict[str, Tensor] = {} if router is None else {f"{form.block}.gate.weight": router.weight}
    return found | _routed_views(f"{form.block}.experts.", layer.moe.experts, form)


def _routed_views(prefix: str, experts: Experts, form: Form) -> dict[str, Tensor]:
    if form.parts is None:
        return {f"{prefix}gate_up_proj": experts.gate_up.mT, f"{prefix}down_proj": experts.down.mT}
    numbered = (_expert_views(f"{prefix}{e}.", experts, e, form.parts) for e in range(len(experts.down)))
    return {name: view for views in numbered for name, view in views.items()}


def _expert_views(prefix: str, experts: Experts, index: int, parts: tuple[str, str, str]) -> dict[str, Tensor]:
    tensors = (*experts.gate_up[index].mT.chunk(2), experts.down[index].mT)
    found = {f"{prefix}{part}.weight": tensor for part, tensor in zip(parts, tensors, strict=True)}
    if experts.gate_up_bias is not None and experts.down_bias is not None:
        biases = (*experts.gate_up_bias[index].chunk(2), experts.down_bias[index])
        found |= {f"{prefix}{part}.bias": bias for part, bias in zip(parts, biases, strict=True)}
    return found


def export_text(
    model: TextDecoder,
    directory: Path,
    family: str | None,
    text: TextFiles | None,
    max_shard_bytes: int,
    context_length: int | None,
) -> None:
    """Write the directory of a text family. Raises as `vlm.interop.export`."""
    chosen = _choose(model, family)
    config = write_config(model.config, chosen, context_length)
    config["torch_dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    config |= {f"{role}_token_id": None if text is None else text.id(role) for role in ("bos", "eos", "pad")}
    lone = chosen.has_experts and model.config.num_experts == 1 and "mlp_only_layers" not in chosen.values
    form = dataclasses.replace(Form.of(chosen), lone=lone)
    named = chain(
        ((name, view) for _, views in _parts(model, chosen, form) for name, view in views().items()),
        _lone_routers(model, form) if lone else (),
    )
    write_weights(directory, named, max_shard_bytes)
    if text is not None:
        write_text_files(directory, text)
    write_json(directory / "config.json", config)


def _lone_routers(model: TextDecoder, form: Form) -> Iterator[tuple[str, Tensor]]:
    """What a mixture of one expert has, and a dense layer does not: the softmax of one logit is 1, whatever it is."""
    for i in range(model.config.num_layers):
        yield f"{form.prefix}layers.{i}.{form.block}.gate.weight", model.embedding.weight.new_zeros(1, model.config.dim)


def _choose(model: TextDecoder, name: str | None) -> Family:
    """The family asked for, or the first that fits. Raises `ValueError` with what stands against it."""
    if name is not None and name not in FAMILIES:
        raise ValueError(f"family {name!r} is not supported; there are {', '.join(FAMILIES)}")
    against = {family.name: _against(model, family) for family in ([FAMILIES[name]] if name else FAMILIES.values())}
    # of those that do not fit, one that is dense, or a mixture, as the model is
    best = min(against, key=lambda name: (any(a.startswith("num_experts") for a in against[name]), len(against[name])))
    if against[best]:
        who = f"{name} cannot" if name else f"no supported family can (the nearest is {best})"
        raise ValueError(f"{who} say decoder.{', decoder.'.join(against[best])}")
    return FAMILIES[best]


def _against(model: TextDecoder, family: Family) -> list[str]:
    found = misfits(model.config, family)
    if family.attention_bias and not found and any(layer.attention.out.bias.any() for layer in _layers(model)):
        found.append("attention_bias of the output, which is not zero")
    return found
