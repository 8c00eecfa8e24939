"""The whole network: gates, packing, what each token sees, groups and their gradients."""

import dataclasses

import pytest
import torch
from vlm_fakes import CONFIG, DOCUMENTS, build, change, image, picture

from vlm import Image, Sample, Text, Video
from vlm.model import GROUPS


def logits(model, batch):
    with torch.no_grad():
        return model(batch).logits


def text_logits(model, batch):
    with torch.no_grad():
        return model.decoder(batch.tokens, batch.positions, batch.document)


def close_gates(model):
    with torch.no_grad():
        for block in model.fusion.values():
            block.attention_gate.zero_()
            block.ffn_gate.zero_()


def test_with_gates_at_zero_logits_are_exactly_the_decoders(mixed):
    model = build(change(fusion={"gate_init": 0.0}))
    assert torch.equal(logits(model, mixed), text_logits(model, mixed))


@pytest.mark.parametrize("sees", ["last", "all"])
@pytest.mark.parametrize("experts", [1, 4])
def test_tokens_that_see_no_image_are_exactly_the_decoders_whatever_the_gates(mixed, sees, experts):
    model = build(change(fusion={"sees": sees}, decoder={"num_experts": experts, "top_k": min(2, experts)}))
    blind = mixed.image_index < 0
    ours, text = logits(model, mixed), text_logits(model, mixed)
    if experts == 1:
        assert torch.equal(ours[blind], text[blind]) and blind.any()
    else:  # an expert's product is rounded otherwise when other tokens go elsewhere; the gated blocks add nothing (test_fusion)
        torch.testing.assert_close(ours[blind], text[blind], atol=2e-5, rtol=0)
    moved = (ours - text).abs().amax(dim=-1)[~blind]
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("images", [True, False])
def test_idefics_way_lets_the_ffn_act_on_tokens_that_see_nothing(mixed, images):
    model = build(change(fusion={"pass_without_image": False}))
    batch = mixed if images else mixed.without_images()
    blind = (batch.image_index < 0) & (batch.document >= 0)
    with_ffn = logits(model, batch)
    assert ((with_ffn - text_logits(model, batch)).abs().amax(dim=-1)[blind] > 1e-3).all()
    with torch.no_grad():  # nothing but the FFN: the attention's weights do not matter
        for block in model.fusion.values():
            block.out.weight.mul_(3)
    assert torch.equal(logits(model, batch)[blind], with_ffn[blind])


def moved_tokens(model, processor, segments, index):
    """The characters' positions whose logits move when the picture in one segment is another."""
    other = list(segments)
    other[index] = Image(picture(99))
    before, after = (logits(model, processor([Sample(tuple(s))]))[0] for s in (segments, other))
    return [i for i, d in enumerate((before - after).abs().amax(dim=-1).tolist()) if d > 1e-4]


@pytest.mark.parametrize("sees", ["last", "all"])
def test_a_token_sees_the_media_before_it_and_of_its_mode(processor, sees):
    # One gated block before the only layer: what moves is what looks, except through self-attention, which is cut here.
    model = build(change(fusion={"sees": sees}, decoder={"num_layers": 1}))
    with torch.no_grad():
        model.decoder.layers[0].attention.out.weight.zero_()
    segments = [Text("ab"), image(1), Text("cd"), image(2), Text("ef")]  # <bos> a b <image> c d <image> e f <eos>
    first = moved_tokens(model, processor, segments, 1)
    second = moved_tokens(model, processor, segments, 3)
    assert first == ([3, 4, 5] if sees == "last" else [3, 4, 5, 6, 7, 8, 9])
    assert second == [6, 7, 8, 9]


def test_an_image_never_reaches_another_document_or_row(processor, model):
    def batch(seed):
        with_image = processor.encode(Sample((image(seed), Text("x"))))
        other, blind = processor.encode(DOCUMENTS[4]), processor.encode(DOCUMENTS[0])
        return processor.collate([[other, with_image, blind, other], [other]])

    one, two = batch(1), batch(2)
    moved = (logits(model, one) - logits(model, two)).abs().amax(dim=-1) > 1e-4
    assert moved[0][(one.document[0] == 1) & (one.image_index[0] >= 0)].all()
    assert not moved[0][one.document[0] != 1].any() and not moved[1].any()


def test_a_video_is_one_medium_whose_frames_and_times_matter(processor, model):
    def of(frames, times):
        return logits(model, processor([Sample((Video(frames, times), Text("x")))]))

    with torch.no_grad():
        model.resampler.time.normal_()
    a, b, c = picture(1), picture(2), picture(3)
    base = of((a, b), (0.0, 1.0))
    for frames, times in [((a, c), (0.0, 1.0)), ((b, a), (0.0, 1.0)), ((a, b), (0.0, 0.5)), ((a, b, b), (0.0, 1.0, 1.0))]:
        assert (of(frames, times) - base).abs().max() > 1e-4
    torch.testing.assert_close(of((b, a), (1.0, 0.0)), base)  # the order of frames is their time's


def test_media_with_different_numbers_of_frames_do_not_disturb_each_other(processor, model):
    docs = [processor.encode(DOCUMENTS[i]) for i in (5, 1)]
    both, single = processor.collate([[docs[0]], [docs[1]]]), processor.collate([[docs[1]]])
    with torch.no_grad():
        torch.testing.assert_close(model.latents(both)[1], model.latents(single)[0])


def test_the_loss_is_the_mean_over_learnt_tokens_of_the_logits(model, mixed):
    out = model(mixed)
    flat = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), mixed.labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(out.nll / out.learnt, flat)
    assert out.learnt == (mixed.labels != -100).sum()
    without = model(mixed, with_logits=False)
    assert without.logits is None and torch.equal(without.loss, out.loss)


def test_nothing_learnt_gives_a_finite_loss_and_gradient(model, mixed):
    out = model(dataclasses.replace(mixed, labels=torch.full_like(mixed.labels, -100)))
    out.loss.backward()
    assert out.nll == 0 and torch.isfinite(out.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# -- groups -------------------------------------------------------------------------------------------------------------


def train_only(model, *groups):
    for name in GROUPS:
        model.group(name).requires_grad_(name in groups)


def test_groups_hold_every_parameter_once(model):
    named = [id(p) for g in GROUPS for p in model.group(g).parameters()]
    assert sorted(named) == sorted(map(id, model.parameters()))
    with pytest.raises(ValueError, match=r"'vision'.*encoder, resampler, fusion, decoder"):
        model.group("vision")


@pytest.mark.parametrize("group", GROUPS)
def test_only_the_group_that_is_trained_gets_gradients(model, mixed, group):
    train_only(model, group)
    model(mixed).loss.backward()
    assert {g for g in GROUPS if any(p.grad is not None for p in model.group(g).parameters())} == {group}


@pytest.mark.parametrize("experts", [1, 4])
def test_gradients_reach_every_parameter_with_open_gates(mixed, experts):
    model = build(change(decoder={"num_experts": experts, "top_k": min(2, experts), "tie_embeddings": False}))
    with torch.no_grad():
        model.resampler.time.normal_()
    model(mixed).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_zero_gates_let_no_gradient_past_but_their_own(mixed):
    model = build(change(fusion={"gate_init": 0.0}))
    model(mixed).loss.backward()
    for name, parameter in model.named_parameters():
        group = name.split(".")[0]
        if group in ("encoder", "resampler") or (group == "fusion" and not name.endswith("gate")):
            assert parameter.grad is not None and not parameter.grad.any(), name
        elif name.endswith("gate"):
            assert parameter.grad.any(), name


def test_batch_without_images_gives_zero_gradients_while_vision_is_trained(model, mixed):
    train_only(model, "encoder", "resampler", "fusion")
    batch = mixed.without_images()
    model(batch).loss.backward()
    vision = [p for g in GROUPS[:3] for p in model.group(g).parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in vision)


def test_vision_is_not_run_for_text_when_it_is_not_trained(model, mixed, monkeypatch):
    train_only(model, "decoder")
    monkeypatch.setattr(model, "latents", lambda batch: pytest.fail("the encoder was run"))
    model(mixed.without_images()).loss.backward()


def test_gated_blocks_stand_every_n_layers():
    assert list(build(change(fusion={"every": 2}, decoder={"num_layers": 5})).fusion) == ["0", "2", "4"]


def test_a_batch_moves_between_devices_only(mixed):
    assert torch.equal(mixed.to("cpu").tokens, mixed.tokens)
    with pytest.raises(ValueError, match="integer types"):
        mixed.to(torch.float16)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("decoder", {"num_heads": 3}, "dim 32 is not a multiple of num_heads 3"),
        ("decoder", {"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ("decoder", {"top_k": 5}, "top_k 5 is not between 1 and num_experts 4"),
        ("decoder", {"head_dim": 5}, "head_dim 5 is odd"),
        ("resampler", {"num_heads": 5}, "resampler.dim 24 is not a multiple of num_heads 5"),
        ("resampler", {"start": "grid", "num_latents": 5}, "square number of latents, not 5"),
        ("resampler", {"start": "grid", "dim": 26}, "multiple of 4, not 26"),
        ("encoder", {"image_size": 18}, "image_size 18 is not a multiple of patch_size 4"),
    ],
)
def test_shapes_that_cannot_be_are_refused_by_name(part, fields, message):
    with pytest.raises(ValueError, match=message):
        change(CONFIG, **{part: fields})
