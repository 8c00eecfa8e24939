"""What must not change a result, in float64: padding, packing, batching, the order of rows, media and experts.

And, bit for bit: what reads text without images is the text decoder.
"""

import dataclasses
import functools
import random

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlm_fakes import CONFIG, DOCUMENTS, build, byte_tokenizer, change

from vlm import Batch, ModelConfig
from vlm.config import RopeScaling
from vlm.load import build_processor
from vlm.model import GROUPS, VLM

DEEPSEEK = {"router": "sigmoid", "balance_bias_rate": 0.1, "routed_scale": 1.5, "shared_dim": 8, "dense_layers": (0,)}
QWEN = {"query_key_norm": "head", "normalize_top_k": False, "sliding_window": 5, "full_attention_layers": (1,)}
CONFIGS: dict[str, ModelConfig] = {
    "default": CONFIG,
    "dense": change(decoder={"num_experts": 1, "top_k": 1, "tie_embeddings": False, "attention_bias": True, "ffn_bias": True}),
    "deepseek": change(decoder={**DEEPSEEK, "ffn_bias": True}),
    "qwen": change(decoder=QWEN, fusion={"sees": "all", "layers": (1, 2)}),
    "shifted": change(decoder={"shifted_kv_heads": 2, "clip_qkv": 1.0, "top_k": 3}, fusion={"gate": "channel"}),
    "long": change(decoder={"rope_scaling": RopeScaling("dynamic", 2.0, 6), "query_key_norm": "width"}, fusion={"norm": "rms"}),
    "idefics": change(
        fusion={"sees": "all", "pass_without_image": False, "ffn": "gated", "query_key_norm": True, "every": 1},
        resampler={"query_key_norm": True, "head_dim": 6},
    ),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
ENCODED = [build_processor(CONFIG, byte_tokenizer()).encode(document) for document in DOCUMENTS]
collate = build_processor(CONFIG, byte_tokenizer()).collate


@functools.cache
def model_of(name: str, dtype: torch.dtype = torch.float64) -> VLM:
    """Every weight random, the parts that start at nothing too."""
    torch.manual_seed(sorted(CONFIGS).index(name))
    model = build(CONFIGS[name])
    with torch.no_grad():
        model.resampler.time.normal_()
        for block in model.fusion.values():
            block.attention_gate.normal_()
            block.ffn_gate.normal_()
        for bias in model.decoder.buffers():
            bias.normal_(std=0.3)
    return model.to(dtype)


@torch.no_grad()
def run(model: VLM, batch: Batch) -> dict[str, Tensor]:
    """What a pass gives: logits of the real tokens in their order, and the sums."""
    out = model(batch)
    sums = {"nll": out.nll, "learnt": out.learnt}
    if out.router is not None:
        sums |= dataclasses.asdict(out.router)
    return {"logits": out.logits[batch.document >= 0], **sums}


@functools.cache
def alone(name: str, document: int) -> dict[str, Tensor]:
    return run(model_of(name), collate([[ENCODED[document]]]))


# The base of dynamic rotary positions is a power in float32, which vector and scalar code round differently.
TOLERANCE = {"long": 1e-7}


def assert_same(name: str, ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    tolerance = TOLERANCE.get(name, 1e-9)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, atol=tolerance, rtol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


# -- where a document stands --------------------------------------------------------------------------------------------

arrangements = st.lists(st.lists(st.integers(0, len(DOCUMENTS) - 1), max_size=4), min_size=1, max_size=3).filter(any)


@every_config
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=arrangements, padding=st.integers(0, 9))
@example(rows=[[0], [1], [0], [4]], padding=0)  # rows without images beside rows with
@example(rows=[[0, 0], [0]], padding=0)  # none at all
@example(rows=[[4, 4, 5, 0]], padding=0)  # all in one row
@example(rows=[[3], [], []], padding=7)  # rows of padding
def test_a_document_gives_the_same_wherever_it_stands(name, rows, padding):
    """Packed or alone, with others in the batch or not, and with any padding; the sums are those of the documents alone."""
    length = max(sum(len(ENCODED[d]) for d in row) for row in rows) + padding
    ours = run(model_of(name), collate([[ENCODED[d] for d in row] for row in rows], length))
    parts = [alone(name, d) for row in rows for d in row]
    expected = {"logits": torch.cat([p["logits"] for p in parts])}
    expected |= {key: torch.stack([p[key] for p in parts]).sum(0) for key in parts[0] if key != "logits"}
    assert_same(name, ours, expected)


def reordered(batch: Batch, order: list[int]) -> Batch:
    """The same batch with its media, and their frames, in another order."""
    place = torch.empty(len(order), dtype=torch.int64)
    place[order] = torch.arange(len(order))
    frames = torch.cat([(batch.media_of_frame == medium).nonzero()[:, 0] for medium in order])
    return dataclasses.replace(
        batch,
        image_index=torch.where(batch.image_index >= 0, place[batch.image_index], -1),
        media_document=batch.media_document[order],
        images=batch.images[frames],
        media_of_frame=place[batch.media_of_frame[frames]],
        frame_time=batch.frame_time[frames],
    )


@every_config
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_media_of_different_rows_does_not_matter(name, seed):
    batch = collate([[ENCODED[4], ENCODED[1]], [ENCODED[0]], [ENCODED[5], ENCODED[3]], [ENCODED[2]]])
    rows = batch.media_document[:, 0].tolist()
    queues = {row: iter([m for m, r in enumerate(rows) if r == row]) for row in set(rows)}  # a row's own keep their order
    order = [next(queues[row]) for row in random.Random(seed).sample(rows, len(rows))]
    assert order != sorted(order)
    assert_same(name, run(model_of(name), reordered(batch, order)), run(model_of(name), batch))


# -- experts ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def permute_experts(model: VLM, seed: int) -> dict[int, Tensor]:
    """Each layer's experts, and the router's rows and biases with them, in another order; returns the orders."""
    orders = {}
    for index, layer in enumerate(model.decoder.layers):
        if layer.moe.router is None:
            continue
        order = torch.randperm(len(layer.moe.router.weight), generator=torch.Generator().manual_seed(seed + index))
        for tensor in (*layer.moe.router.parameters(), *layer.moe.router.buffers(), *layer.moe.experts.parameters()):
            tensor.copy_(tensor[order].clone())
        orders[index] = order
    return orders


@every_config
@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_the_experts_does_not_matter(name, seed):
    batch = collate([[ENCODED[4], ENCODED[1]], [ENCODED[0]], [ENCODED[5]]])
    permuted = build(CONFIGS[name]).double()
    permuted.load_state_dict(model_of(name).state_dict())
    orders = permute_experts(permuted, seed)
    expected = run(model_of(name), batch)
    for key in {"counts", "probability"} & expected.keys():
        expected[key] = torch.stack([layer[..., order] for layer, order in zip(expected[key], orders.values(), strict=True)])
    assert_same(name, run(permuted, batch), expected)


# -- text without images ------------------------------------------------------------------------------------------------

UNTOUCHED = [name for name, config in CONFIGS.items() if config.fusion.pass_without_image]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [(), ("decoder",), GROUPS[:3], GROUPS], ids=len)
@pytest.mark.parametrize("name", UNTOUCHED)
def test_text_without_images_is_the_decoder_bit_for_bit(name, trained, dtype):
    """With and without gradients: while vision is trained, a blank picture that nobody sees passes through it."""
    model = model_of(name, dtype)
    for group in GROUPS:
        model.group(group).requires_grad_(group in trained)
    batch = collate([[ENCODED[0], ENCODED[0]], [ENCODED[4], ENCODED[0]]], 70).without_images()
    assert torch.equal(model(batch).logits, model.decoder(batch.tokens, batch.positions, batch.document))
