"""The bar: greedy with the cache is greedy without it, token for token in float64, for random prompts with 0 to 4 images."""

from __future__ import annotations

import random

import pytest
import torch
from vlm_fakes import build, change, grown, image, picture

from vlm import Batch, Sample, Text, Video

CONFIGS = [
    {},
    {"fusion": {"sees": "all"}},
    {"fusion": {"pass_without_image": False}},
    {"fusion": {"sees": "all", "pass_without_image": False, "every": 1}},
    {"decoder": {"shifted_kv_heads": 1}},
    {"decoder": {"num_experts": 1, "top_k": 1, "num_kv_heads": 4, "tie_embeddings": False}, "fusion": {"sees": "all"}},
    {"decoder": {"num_experts": 6, "top_k": 3, "normalize_top_k": False, "num_kv_heads": 1, "head_dim": 12}},
    {"decoder": {"shifted_kv_heads": 2, "sliding_window": 5}, "fusion": {"sees": "all", "every": 3}},
]


def random_prompt(rng: random.Random) -> Sample:
    """0 to 4 images (now and then a clip) among stretches of text, in any order."""
    pieces = [image(rng.randrange(40)) for _ in range(rng.randint(0, 4))]
    if rng.random() < 0.1:
        pieces.append(Video((picture(1), picture(2)), (0.0, rng.random())))
    texts = ["".join(chr(rng.randrange(32, 300)) for _ in range(rng.randint(1, 9))) for _ in range(rng.randint(0, 3))]
    pieces += [Text(text, learn=False) for text in texts]
    rng.shuffle(pieces)
    return Sample(tuple(pieces))


@torch.no_grad()
def recomputed(model, batch: Batch, steps: int) -> list[list[int]]:
    """Greedy, everything again for each token."""
    columns = []
    for _ in range(steps):
        logits = model(batch).logits[torch.arange(len(batch.tokens)), batch.lengths - 1]
        columns.append(logits.argmax(dim=-1))
        batch = grown(batch, columns[-1])
    return torch.stack(columns, dim=1).tolist()


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_greedy_with_the_cache_is_greedy_without(processor, number, prompts=25, steps=10):
    model, rng = build(change(**CONFIGS[number])).double(), random.Random(number)
    samples = [random_prompt(rng) for _ in range(prompts)]
    batch = processor(samples)
    together = model.generate(batch, max_new_tokens=steps).tokens
    assert together == recomputed(model, batch, steps)
    assert len({tuple(text) for text in together}) > prompts // 2  # the texts are not all one
    for row in range(0, prompts, 5):
        assert model.generate(processor([samples[row]]), max_new_tokens=steps).tokens == [together[row]]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_greedy_with_the_cache_is_greedy_without_for_many(processor, number):
    for _ in range(4):
        test_greedy_with_the_cache_is_greedy_without(processor, number, prompts=60, steps=40)
