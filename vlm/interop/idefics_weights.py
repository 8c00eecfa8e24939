"""Where each tensor of an Idefics checkpoint lives in a `VLM`: one table, for reading and for writing.

`views` gives for each of its names the part of our parameters that holds it, as a view: reading copies into these, writing
takes them out, and there is no second list to keep in step.
"""

from __future__ import annotations

from torch import Tensor, nn

from vlm.decoder import TextDecoder
from vlm.fusion import GatedCrossAttention
from vlm.interop.hf_text import llama_views
from vlm.model import VLM
from vlm.resampler import PerceiverResampler


def views(model: VLM, additional: int) -> dict[str, Tensor]:
    """Idefics' name → view of our parameter. The last `additional` rows of the tables go by names of their own."""
    found = _decoder_views(model.decoder, additional) | _under("model.vision_model.", _tower_views(model.encoder.model))
    for index, block in enumerate(model.fusion.values()):
        found |= _under(f"model.gated_cross_attn_layers.{index}.", _gated_views(block))
    if isinstance(model.resampler, PerceiverResampler):
        found |= _under("model.perceiver_resampler.", _resampler_views(model.resampler))
    return found


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _of(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return _under(prefix, dict(module.named_parameters()))


def _decoder_views(decoder: TextDecoder, additional: int) -> dict[str, Tensor]:
    found = {"model.norm.weight": decoder.norm.weight}
    found |= _split("model.embed_tokens.", "additional_embedding.", decoder.embedding.weight, additional)
    if decoder.head is not None:
        found |= _split("lm_head.", "additional_fc.", decoder.head.weight, additional)
    for i, layer in enumerate(decoder.layers):
        found |= llama_views(f"model.layers.{i}.", layer)
    return found


def _split(prefix: str, rest: str, table: Tensor, additional: int) -> dict[str, Tensor]:
    end = len(table) - additional
    return {f"{prefix}weight": table[:end]} | ({f"{prefix}{rest}weight": table[end:]} if additional else {})


def _gated_views(block: GatedCrossAttention) -> dict[str, Tensor]:
    key, value = block.key_value.weight.chunk(2)
    norm, gate_up, _, down = block.ffn
    gate, up = gate_up.weight.chunk(2)
    found = {
        "input_layernorm.weight": block.attention_norm.weight,
        "cross_attn.q_proj.weight": block.query.weight,
        "cross_attn.k_proj.weight": key,
        "cross_attn.v_proj.weight": value,
        "cross_attn.o_proj.weight": block.out.weight,
        "post_attention_layernorm.weight": norm.weight,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": down.weight,
    }
    for name, alpha in (("alpha_cross_attn", block.attention_gate), ("alpha_dense", block.ffn_gate)):
        found[name] = alpha.view(1, 1, -1) if block.config.gate == "channel" else alpha
    if block.config.query_key_norm:
        found |= {
            "cross_attn.q_layer_norm.weight": block.query_norm.weight,
            "cross_attn.k_layer_norm.weight": block.key_norm.weight,
        }
    return found


def _resampler_views(resampler: PerceiverResampler) -> dict[str, Tensor]:
    found = {"latents": resampler.latents, **_of("layer_norm.", resampler.norm)}
    for i, layer in enumerate(resampler.layers):
        key, value = layer.key_value.weight.chunk(2)
        norm, fc, _, proj = layer.ffn
        modules = {"0.context_layer_norm.": layer.patch_norm, "0.latents_layer_norm.": layer.latent_norm, "1.ln.": norm}
        if resampler.config.query_key_norm:
            modules |= {"0.q_layer_norm.": layer.query_norm, "0.k_layer_norm.": layer.key_norm}
        here = {
            "0.q_proj.weight": layer.query.weight,
            "0.k_proj.weight": key,
            "0.v_proj.weight": value,
            "0.output_proj.weight": layer.out.weight,
            "1.fc.weight": fc.weight,
            "1.c_proj.weight": proj.weight,
        }
        for name, module in modules.items():
            here |= _of(name, module)
        found |= _under(f"blocks.{i}.", here)
    return found


def _tower_views(tower: nn.Module) -> dict[str, Tensor]:
    """Of a timm Vision Transformer with the parts of CLIP's."""
    found = {
        "embeddings.class_embedding": tower.cls_token[0, 0],
        "embeddings.patch_embedding.weight": tower.patch_embed.proj.weight,
        "embeddings.position_embedding.weight": tower.pos_embed[0],
        **_of("pre_layrnorm.", tower.norm_pre),
    }
    modules = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i, block in enumerate(tower.blocks):
        here = f"encoder.layers.{i}."
        for theirs, ours in modules.items():
            found |= _of(f"{here}{theirs}.", block.get_submodule(ours))
        for kind, qkv in block.attn.qkv.named_parameters():
            found |= {f"{here}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", qkv.chunk(3), strict=True)}
    return found
