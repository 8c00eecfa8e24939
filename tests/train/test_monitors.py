"""Figures of a model that training writes down."""

import math

import pytest
import torch

from train.monitors import gate_figures
from vlm import VLM, DecoderConfig, EncoderConfig, FusionConfig, ModelConfig, ResamplerConfig


@pytest.mark.parametrize(("gate", "expected"), [("scalar", math.tanh(-0.5)), ("channel", math.tanh(0.5))])
def test_gates_are_written_with_their_sign_or_as_the_mean_size_of_their_channels(gate, expected):
    model = VLM(
        ModelConfig(
            EncoderConfig(image_size=8, patch_size=4, width=8, depth=1, num_heads=1),
            ResamplerConfig(dim=8, num_latents=1, depth=1, num_heads=1, ffn_dim=4),
            FusionConfig(layers=(1,), num_heads=1, head_dim=4, ffn_dim=4, gate=gate, gate_init=-0.5),
            DecoderConfig(vocab_size=8, dim=8, num_layers=2, num_heads=2, num_kv_heads=1, num_experts=1, top_k=1, expert_dim=4),
        )
    )
    if gate == "channel":
        with torch.no_grad():  # half of them of the other sign: open all the same
            model.fusion["1"].attention_gate[::2] *= -1
    assert dict(gate_figures(model)) == pytest.approx({"gate/layer1/attention": expected, "gate/layer1/ffn": expected})
