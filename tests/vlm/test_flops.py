"""FLOP by formula against torch's counter, which sees the products that run.

The plain path computes more than is counted: scores of every pair of tokens, gated blocks of tokens that see nothing, padding.
`Dense` is the load of that, so that both figures must be equal to the last FLOP; what is left out is tested by itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from vlm_fakes import CONFIG, DOCUMENTS, build, change, image

from vlm import Batch, DecoderConfig, ModelConfig, Sample, Text
from vlm.attention import document_mask, window_mask
from vlm.decoder import TextDecoder
from vlm.flops import PARTS, Load, flops
from vlm.model import GROUPS
from vlm.sight import BLOCK, Blocks, Sight

CONFIGS = {
    "plain": CONFIG,
    "all media": change(fusion={"sees": "all", "every": 1}),
    "gated ffn": change(fusion={"ffn": "gated", "gate": "channel", "layers": (1, 2), "pass_without_image": False}),
    "no resampler": dataclasses.replace(CONFIG, resampler=None),
    "prefix tokens": dataclasses.replace(change(encoder={"prefix_tokens": True}), resampler=None),
    "conv stem": change(encoder={"stem": "conv"}),
    "same width": change(resampler={"dim": 16, "head_dim": 12, "depth": 1}),
    "dense": change(decoder={"num_experts": 1, "top_k": 1, "tie_embeddings": False}),
    "shared expert": change(decoder={"shared_dim": 40, "dense_layers": (0,), "dense_dim": 20, "top_k": 3, "head_dim": 6}),
    "grouped": change(decoder={"num_kv_heads": 1, "num_layers": 4, "attention_bias": True}, fusion={"layers": (2,)}),
}
TRAINED = [names for n in range(len(GROUPS) + 1) for names in itertools.combinations(GROUPS, n)]


@dataclass(frozen=True)
class Dense(Load):
    """As much as the plain path does for a batch of B x T."""

    shape: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, batch: Batch, sees: str = "last") -> Dense:
        load, everything = Load.of(batch), batch.tokens.numel()
        by = Sight.of(batch, sees).by if batch.num_media else None
        met = 0 if by is None else by.media.numel() * BLOCK if isinstance(by, Blocks) else everything * by.media.shape[1]
        return cls(load.lengths, load.frames, everything, met, load.learnt, tuple(batch.tokens.shape))

    @property
    def tokens(self) -> int:
        return self.shape[0] * self.shape[1]

    def pairs(self, window: int | None = None) -> int:
        return self.tokens * self.shape[1]


def computed(config: ModelConfig, load: Dense, train=()) -> dict[str, int]:
    """The formula for what the plain path does: a token meets all media of its row, or its block's one, whatever it sees."""
    return flops(dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, sees="all")), load, train)


def statistics(config: DecoderConfig, tokens: int) -> int:
    """The routers' sums over tokens, [2, N] x [N, E] and [1, N] x [N, E]: products by their form only."""
    return 2 * 3 * tokens * config.num_experts * sum(config.is_moe(layer) for layer in range(config.num_layers))


def batch_of(processor, *rows: tuple[int, ...]) -> Batch:
    """Rows of DOCUMENTS by number."""
    return processor.collate([[processor.encode(DOCUMENTS[i]) for i in row] for row in rows])


@pytest.fixture
def pictures(processor) -> Batch:
    return batch_of(processor, (1, 0, 3), (0, 0), (4,))


@pytest.mark.parametrize("name", CONFIGS)
def test_each_part_of_a_forward_pass_is_what_the_counter_counts(name, pictures):
    config = CONFIGS[name]
    model, load = build(config).requires_grad_(False), Dense.of(pictures, config.fusion.sees)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(pictures, with_logits=False)
    counts = {module.removeprefix("VLM."): sum(c.values()) for module, c in counter.get_flop_counts().items()}
    expected = computed(config, load)
    blocks = sum(n for m, n in counts.items() if m.startswith("fusion.") and m.count(".") == 1)
    assert counts["encoder"] == expected["encoder"]
    assert counts.get("resampler", 0) == expected["resampler"]
    stats = statistics(config.decoder, load.tokens)
    assert counter.get_total_flops() == sum(expected.values()) + stats
    media = expected["fusion"] - blocks  # `project_media` is no module's call
    assert media >= 0 and media % (2 * pictures.num_media) == 0


@pytest.mark.parametrize("train", TRAINED, ids="+".join)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_what_the_counter_counts_whatever_is_frozen(name, train, pictures):
    config = CONFIGS[name]
    if config.resampler is None and "resampler" in train:
        pytest.skip("has none")
    model, load = build(config), Dense.of(pictures, config.fusion.sees)
    for group in GROUPS:
        model.group(group).requires_grad_(group in train)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = model(pictures, with_logits=False)
        if train:
            out.nll.backward()
    assert counter.get_total_flops() == sum(computed(config, load, train).values()) + statistics(config.decoder, load.tokens)


def test_an_encoder_is_what_a_vision_transformer_takes_by_hand():
    side, patch, width, depth, hidden = 32, 4, 48, 3, 100
    config = change(encoder={"image_size": side, "patch_size": patch, "width": width, "depth": depth, "ffn_dim": hidden})
    patches = (side // patch) ** 2
    tokens = patches + 1  # its class token
    stem = 2 * patches * 3 * patch**2 * width
    blocks = depth * (2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width)
    load = Load(lengths=(5,), frames=(1, 2))
    assert flops(config, load)["encoder"] == 3 * (stem + blocks)
    assert flops(config, load, ["encoder"])["encoder"] == 3 * (2 * stem + 3 * blocks)  # no gradient by pixels
    assert flops(config, load, ["resampler", "decoder"])["encoder"] == 3 * (stem + blocks)


def test_a_plain_decoder_is_six_times_its_parameters_and_its_attention():
    config = DecoderConfig(vocab_size=50, dim=32, num_layers=3, num_heads=4, num_kv_heads=4, num_experts=1, top_k=1)
    matrices = sum(p.numel() for p in TextDecoder(config).parameters() if p.ndim > 1)  # tied: the table is the head
    length = 7
    load = Load(lengths=(length,) * 2, learnt=2 * length)
    attention = 6 * 3 * (length + 1) * 32  # 6 · layers · length · d a token, the diagonal whole
    assert sum(flops(config, load, ["decoder"]).values()) == load.tokens * (6 * matrices + attention)


def shuffled(batch: Batch) -> Batch:
    """The same batch with its rows' media in another order; those of a row keep theirs."""
    order = batch.media_document[:, 0].argsort(descending=True, stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
    index = torch.where(batch.image_index >= 0, torch.cat((place, place.new_zeros(1)))[batch.image_index], -1)
    frames = place[batch.media_of_frame]
    moved = frames.argsort(stable=True)
    return dataclasses.replace(
        batch,
        image_index=index,
        media_document=batch.media_document[order],
        images=batch.images[moved],
        media_of_frame=frames[moved],
        frame_time=batch.frame_time[moved],
    )


@pytest.mark.parametrize("rows", [((1, 0, 3), (0, 0), (5, 4)), ((4, 4), (6, 2, 1), (3,)), ((0,),), ((4,),)])
@pytest.mark.parametrize("change_of", [lambda b: b, shuffled], ids=["in order", "shuffled"])
def test_the_numbers_of_a_batch_are_those_of_its_masks(processor, rows, change_of):
    batch = change_of(batch_of(processor, *rows))
    load, place = Load.of(batch), torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
    real = (batch.document >= 0)[:, None, :, None]
    for window in (None, 1, 3, 10, 1000):
        assert load.pairs(window) == int((window_mask(document_mask(batch.document), place, window) & real).sum())
    assert load.tokens == int((batch.document >= 0).sum())
    last, everything = (Sight.of(batch, mode) if batch.num_media else None for mode in ("last", "all"))
    assert load.seeing == (0 if last is None else int(last.sees.sum()))
    assert load.seen == (0 if everything is None else int((everything.by.mask & everything.sees[:, :, None]).sum()))
    assert sum(load.frames) == len(batch.images) and len(load.frames) == batch.num_media


@pytest.mark.parametrize("train", [(), ("fusion",), GROUPS])
@pytest.mark.parametrize("sees", ["last", "all"])
def test_packing_padding_and_order_cost_nothing(processor, sees, train):
    config = change(fusion={"sees": sees}, decoder={"sliding_window": 6, "full_attention_layers": (1,)})
    packed = flops(config, Load.of(batch_of(processor, (1, 0, 5), (0, 3), (4,))), train)
    alone = [flops(config, Load.of(batch_of(processor, (i,))), train) for i in (0, 0, 1, 3, 4, 5)]
    assert packed == {part: sum(of[part] for of in alone) for part in PARTS}


def test_text_costs_its_decoder_whatever_vision_could_do(processor):
    text = Load.of(batch_of(processor, (0, 0)))
    alone = flops(CONFIG.decoder, text, ["decoder"])
    assert flops(CONFIG, text, GROUPS) == {"encoder": 0, "resampler": 0, "fusion": 0, **alone}


def test_a_frozen_decoder_has_gradients_by_activations_from_its_first_gated_block_upwards(processor):
    load = Load.of(batch_of(processor, (4, 1)))
    cost = [flops(change(fusion={"layers": (layer,)}), load, ["fusion"])["decoder"] for layer in range(3)]
    forward, learning = (flops(CONFIG, load, train)["decoder"] for train in ((), ["decoder"]))
    assert forward < cost[2] < cost[1] < cost[0] < learning and cost[0] - cost[1] == cost[1] - cost[2]


def test_a_group_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'head'"):
        flops(CONFIG, Load((3,)), ["head"])
    with pytest.raises(ValueError, match="'fusion'"):
        flops(CONFIG.decoder, Load((3,)), ["fusion"])


def test_a_clip_counts_its_own_frames(processor):
    """The resampler of a picture beside a clip takes the clip's number of frames; counted is the picture's one."""
    both, clip, picture = (Load.of(batch_of(processor, *rows)) for rows in (((5,), (1,)), ((5,),), ((1,),)))
    assert both.frames in ((3, 1), (1, 3))
    assert flops(CONFIG, both)["resampler"] == flops(CONFIG, clip)["resampler"] + flops(CONFIG, picture)["resampler"]


def test_all_media_before_a_token_count_in_its_document_only(processor):
    batch = processor([Sample((image(1), Text("ab"), image(2), image(3), Text("cde")))])
    load = Load.of(batch)
    index = batch.image_index[batch.image_index >= 0]
    assert load.seeing == len(index) and load.seen == int((index + 1).sum())
