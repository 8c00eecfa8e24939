"""A CLIP ViT of any shape, as Idefics has it: equal to transformers' towers, class token included, without the last norm."""

import dataclasses

import pytest
import torch
from encoder_fakes import normalised, pictures

from encoders import EncoderConfig, build_encoder
from encoders.weights import load_weights

transformers = pytest.importorskip("transformers")
from transformers.models.idefics.configuration_idefics import IdeficsVisionConfig  # noqa: E402
from transformers.models.idefics.vision import IdeficsVisionTransformer  # noqa: E402

CONFIG = EncoderConfig(
    name="vit_base_patch16_clip_224",
    image_size=30,
    patch_size=5,
    width=42,
    depth=3,
    num_heads=3,
    ffn_dim=77,
    norm_eps=1e-3,
    prefix_tokens=True,
    final_norm=False,
)
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
SIZES = {"image_size": 30, "patch_size": 5, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 77}


def clip_vision(activation):
    config = transformers.CLIPVisionConfig(hidden_size=42, hidden_act=activation, layer_norm_eps=1e-3, **SIZES)
    return transformers.CLIPVisionModel(config)


def idefics_vision(activation):
    config = IdeficsVisionConfig(embed_dim=42, hidden_act=activation, layer_norm_eps=1e-3, **SIZES)
    return IdeficsVisionTransformer(config)


def timm_names(state):
    """The towers' weights by timm's names."""
    state = {name.removeprefix("vision_model."): t for name, t in state.items()}
    out = {
        "cls_token": state["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
    }
    parts = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj", "mlp.fc1": "mlp.fc1"}
    for kind in ("weight", "bias"):
        out[f"norm_pre.{kind}"] = state[f"pre_layrnorm.{kind}"]
        for layer in range(3):
            theirs, ours = f"encoder.layers.{layer}", f"blocks.{layer}"
            out[f"{ours}.attn.qkv.{kind}"] = torch.cat([state[f"{theirs}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            for a, b in (parts | {"mlp.fc2": "mlp.fc2"}).items():
                out[f"{ours}.{b}.{kind}"] = state[f"{theirs}.{a}.{kind}"]
    return out


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("make", [clip_vision, idefics_vision])
@torch.no_grad()
def test_last_hidden_state_is_transformers(make, activation):
    torch.manual_seed(0)
    peer = make(ACTIVATIONS[activation]).eval()
    for parameter in peer.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    encoder = build_encoder(dataclasses.replace(CONFIG, activation=activation)).eval()
    load_weights(encoder.model, timm_names(peer.state_dict()), "peer")
    images = pictures(30)
    pixels = normalised(images, encoder.config.mean, encoder.config.std)
    expected = peer(pixel_values=pixels).last_hidden_state
    assert (encoder.num_prefix_tokens, encoder.grid) == (1, 6) and expected.shape == (3, 37, 42)
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("field", [{"norm_eps": 0.5}, {"activation": "relu"}, {"final_norm": True}])
@torch.no_grad()
def test_each_option_matters(field):
    torch.manual_seed(0)
    base, images = build_encoder(CONFIG).eval(), pictures(30)
    other = build_encoder(dataclasses.replace(CONFIG, **field)).eval()
    other.load_state_dict(base.state_dict(), strict=False)
    assert (other(images) - base(images)).abs().max() > 1e-3
