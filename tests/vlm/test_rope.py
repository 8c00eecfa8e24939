"""Rotary positions: the frequencies of the published code, and what may not depend on the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vlm import DecoderConfig
from vlm.config import RopeScaling
from vlm.rope import rotary_table

LENGTH = 3000
SCALINGS = [
    RopeScaling("linear", 3.0),
    RopeScaling("dynamic", 2.5, 512),
    RopeScaling("llama3", 8.0, 1024),
    RopeScaling("llama3", 32.0, 256, low_freq_factor=0.5, high_freq_factor=9.0),
    RopeScaling("yarn", 4.0, 512),
    RopeScaling("yarn", 16.0, 100, beta_fast=20.0, beta_slow=2.0, truncate=False),
    RopeScaling("yarn", 4.0, 4096, attention_factor=0.7),
    RopeScaling("yarn", 2.0, 5),  # no pair turns even once
]


def config(scaling: RopeScaling | None, theta: float = 10_000.0, head_dim: int = 24) -> DecoderConfig:
    return DecoderConfig(dim=48, num_heads=2, head_dim=head_dim, num_kv_heads=1, rope_theta=theta, rope_scaling=scaling)


def row(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(length)[None], torch.zeros(1, length, dtype=torch.int64)


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s.kind}-{s.factor:g}-{s.original_length}")
def test_the_table_is_that_of_transformers(scaling: RopeScaling, theta: float) -> None:
    transformers = pytest.importorskip("transformers")
    parameters = {
        "rope_type": scaling.kind,
        "rope_theta": theta,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_length,
    }
    if scaling.kind == "llama3":
        parameters |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        parameters |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        parameters |= {"attention_factor": scaling.attention_factor} if scaling.attention_factor else {}
    theirs = transformers.LlamaConfig(
        hidden_size=48, num_attention_heads=2, head_dim=24, rope_parameters=parameters,
        max_position_embeddings=scaling.original_length or 512,
    )  # fmt: skip
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    positions, document = row(LENGTH)
    expected = rotary(torch.zeros(1), positions)
    for mine, other in zip(rotary_table(positions, document, config(scaling, theta)), expected, strict=True):
        torch.testing.assert_close(mine[:, 0], other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.kind)
def test_packed_documents_turn_as_they_would_alone(scaling: RopeScaling) -> None:
    lengths = (700, 30, 1500)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    document = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    packed = rotary_table(positions, document, config(scaling))[0].split(lengths, dim=2)
    for n, part in zip(lengths, packed, strict=True):
        torch.testing.assert_close(part, rotary_table(*row(n), config(scaling))[0], atol=3e-4, rtol=0)  # an ulp of frequency


def test_dynamic_scaling_begins_where_the_original_context_ends() -> None:
    scaling = RopeScaling("dynamic", 4.0, 100)
    for length, same in ((100, True), (101, False)):
        plain, scaled = (rotary_table(*row(length), config(s))[0] for s in (None, scaling))
        assert torch.equal(plain, scaled) is same


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "yarn", "factor": 2.0},
        {"kind": "llama3", "factor": 2.0, "original_length": 9, "low_freq_factor": 4.0},
        {"kind": "yarn", "factor": 2.0, "original_length": 9, "beta_slow": 64.0},
    ],
)
def test_a_scaling_that_cannot_be_is_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match="rope_scaling"):
        RopeScaling(**fields)


def test_dynamic_scaling_of_a_single_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="dynamic"):
        dataclasses.replace(config(None, head_dim=2), rope_scaling=RopeScaling("dynamic", 2.0, 8))
