"""timm and open_clip behind one protocol: their own tokens, whatever the family."""

import dataclasses

import open_clip
import pytest
import timm
import timm.data
import torch
from encoder_fakes import OPEN_CLIP, TEXT, TIMM, TOWER, TRUNK, normalised, pictures, randomize

from encoders import EncoderConfig, build_encoder, native_pixels
from encoders.positions import sincos_grid


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


FAMILIES = {  # name → (prefix tokens, what is changed besides the size)
    "vit_base_patch16_224": (1, {}),
    "vit_base_patch16_clip_224": (1, {}),
    "vit_base_patch16_siglip_224": (0, {}),
    "vit_small_patch14_reg4_dinov2": (5, {}),  # registers, layer scale
    "vit_giant_patch14_dinov2": (1, {"ffn_dim": 36}),  # SwiGLU
    "vit_base_patch16_gap_224": (0, {}),
    "deit_base_distilled_patch16_224": (2, {}),
    "beit_base_patch16_224": (1, {}),  # relative positions
    "eva02_base_patch14_224": (1, {}),  # rotary positions, norm in the SwiGLU
    "eva_giant_patch14_224": (1, {}),  # its norm is of the pooled vector
    "vit_base_patch16_dinov3": (5, {}),
    "vit_pe_core_base_patch16_224": (1, {}),
}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_timm_tokens_are_the_librarys(name):
    prefix, fields = FAMILIES[name]
    config = dataclasses.replace(TIMM, name=name, **fields)
    encoder, whole = build_encoder(config).eval(), build_encoder(dataclasses.replace(config, prefix_tokens=True)).eval()
    randomize(encoder)
    whole.load_state_dict(encoder.state_dict())
    options = {"mlp_ratio": (fields["ffn_dim"] + 0.5) / 32} if fields else {}
    peer = timm.create_model(name, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, **options).eval()
    loaded = peer.load_state_dict(encoder.model.state_dict(), strict=False)
    assert not loaded.unexpected_keys and {n.split(".")[0] for n in loaded.missing_keys} <= {
        "head",
        "head_dist",
        "attn_pool",
        "fc_norm",
    }
    data, images = timm.data.resolve_model_data_config(peer), pictures()
    expected = peer.forward_features(normalised(images, data["mean"], data["std"]))
    assert peer.num_prefix_tokens == prefix and expected.shape == (3, prefix + 16, 32)
    assert torch.equal(encoder(images), expected[:, prefix:]) and torch.equal(whole(images), expected)
    assert (encoder.dim, encoder.grid, encoder.num_prefix_tokens, whole.num_prefix_tokens) == (32, 4, 0, prefix)


@torch.no_grad()
def test_open_clip_tokens_are_the_librarys():
    encoder = build_encoder(OPEN_CLIP).eval()
    whole = build_encoder(dataclasses.replace(OPEN_CLIP, prefix_tokens=True)).eval()
    peer = open_clip.create_model("ViT-B-32", vision_cfg=TOWER, text_cfg=TEXT).visual
    for one in (encoder, whole):
        one.visual.load_state_dict({n: t for n, t in peer.state_dict().items() if n != "proj"})
    peer.output_tokens, images = True, pictures()
    pixels = normalised(images, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    pooled, expected = peer.eval()(pixels)
    assert torch.equal(encoder(images), expected) and torch.equal(whole(images)[:, 1:], expected)
    torch.testing.assert_close(whole(images)[:, 0] @ peer.proj, pooled)
    assert (encoder.dim, encoder.grid, encoder.num_prefix_tokens, whole.num_prefix_tokens) == (32, 4, 0, 1)


@torch.no_grad()
def test_open_clip_tokens_without_last_norm_are_normed_by_it():
    encoder = build_encoder(OPEN_CLIP).eval()
    bare = build_encoder(dataclasses.replace(OPEN_CLIP, final_norm=False)).eval()
    bare.load_state_dict(encoder.state_dict(), strict=False)
    images = pictures()
    torch.testing.assert_close(encoder.visual.ln_post(bare(images)), encoder(images))


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"activation": "quick_gelu"}, {"quick_gelu": True}),
        ({"activation": "gelu_tanh"}, {"act_kwargs": {"approximate": "tanh"}}),
        ({"ffn_dim": 77}, {"mlp_ratio": 77.5 / 32}),
        ({"norm_eps": 0.1}, {"norm_kwargs": {"eps": 0.1}}),
    ],
)
@torch.no_grad()
def test_open_clip_options_are_the_librarys(fields, changed):
    encoder = build_encoder(dataclasses.replace(OPEN_CLIP, **fields)).eval()
    quick = {"quick_gelu": changed.pop("quick_gelu", False)}
    peer = open_clip.create_model("ViT-B-32", vision_cfg=TOWER | changed, text_cfg=TEXT, **quick).visual
    encoder.visual.load_state_dict({n: t for n, t in peer.state_dict().items() if n != "proj"})
    peer.output_tokens, images = True, pictures()
    assert torch.equal(encoder(images), peer.eval()(normalised(images, encoder.config.mean, encoder.config.std))[1])


@torch.no_grad()
def test_open_clips_timm_trunk_gives_its_tokens(monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TRUNK)
    encoder = build_encoder(EncoderConfig("open_clip", "tiny", image_size=64)).eval()
    peer = timm.create_model("test_vit3", img_size=64).eval()
    peer.load_state_dict(encoder.trunk.state_dict(), strict=False)
    images = pictures(64)
    expected = peer.forward_features(normalised(images, encoder.config.mean, encoder.config.std))
    assert torch.equal(encoder(images), expected[:, 1:]) and expected.shape == (3, 17, 96)  # test_vit3 has a register


RESOLVED = native_pixels(TIMM)  # as a saved model has it
CASES = {
    "timm": TIMM,
    "conv": dataclasses.replace(TIMM, stem="conv"),
    "siglip": dataclasses.replace(TIMM, name="vit_base_patch16_siglip_224"),
    "eva02": dataclasses.replace(TIMM, name="eva02_base_patch16_clip_224"),
    "beit": dataclasses.replace(TIMM, name="beit_base_patch16_224"),
    "dinov3": dataclasses.replace(TIMM, name="vit_base_patch16_dinov3"),
    "bare": dataclasses.replace(TIMM, final_norm=False, prefix_tokens=True),
    "open_clip": OPEN_CLIP,
    "open_clip bare": dataclasses.replace(OPEN_CLIP, final_norm=False, prefix_tokens=True),
}
each = pytest.mark.parametrize("config", CASES.values(), ids=CASES)


@each
def test_every_parameter_gets_a_gradient(config):
    encoder = build_encoder(config)
    tokens = encoder(pictures())
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@each
def test_gradients_are_those_of_differences(config):
    encoder = build_encoder(dataclasses.replace(config, width=16, image_size=16, depth=1)).double().eval()
    encoder.reset_buffers()
    randomize(encoder)
    encoder.forward = encoder.features  # pixels in place of bytes
    weights = dict(encoder.named_parameters())
    pixels = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)

    def tokens(pixels, *values):
        return torch.func.functional_call(encoder, dict(zip(weights, values, strict=True)), (pixels,))

    values = [p.detach().requires_grad_() for p in weights.values()]
    assert torch.autograd.gradcheck(tokens, (pixels, *values), fast_mode=True)


@each
@torch.no_grad()
def test_tokens_are_in_reading_order_and_pictures_apart(config):
    encoder, images = build_encoder(config).eval(), pictures()
    randomize(encoder)
    base = encoder(images)
    images[1, :, 8:16, 24:32] = 255 - images[1, :, 8:16, 24:32]  # row 1, column 3
    moved = (encoder(images) - base)[:, encoder.num_prefix_tokens :].abs().amax(dim=-1)
    assert not moved[[0, 2]].any() and int(moved[1].argmax()) == 7


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_meta_build_filled_later_is_the_same(config, dtype):
    with torch.device("meta"):
        emptied, assigned = build_encoder(config), build_encoder(config)
    real = build_encoder(config).to(dtype).eval()
    state = real.state_dict()
    emptied.to(dtype).to_empty(device="cpu").load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    images = pictures()
    for encoder in (emptied, assigned):
        encoder.reset_buffers()
        assert {n: p.shape for n, p in encoder.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
        assert torch.equal(encoder.eval()(images), real(images)) and encoder(images).dtype == dtype


@each
@torch.no_grad()
def test_half_precision_is_near(config):
    encoder, images = build_encoder(config).eval(), pictures()
    exact = encoder(images)
    torch.testing.assert_close(encoder.to(torch.bfloat16)(images).float(), exact, atol=0.1, rtol=0.05)


def test_bytes_are_normalised_before_they_are_rounded():
    encoder = build_encoder(TIMM).to(torch.bfloat16)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = normalised(levels, encoder.config.mean, encoder.config.std).to(torch.bfloat16)
    assert torch.equal(encoder.normalise(levels), expected)


@each
def test_a_frozen_encoder_keeps_nothing_for_a_backward_pass(config):
    encoder, saved = build_encoder(config).requires_grad_(False), []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        tokens = encoder(pictures())
    assert not tokens.requires_grad and tokens.grad_fn is None and saved == []


def test_positions_start_as_sines_and_cosines_and_prefix_tokens_at_zero():
    table = build_encoder(TIMM).model.pos_embed[0]
    assert not table[0].any() and torch.equal(table[1:], sincos_grid(4, 32))


def test_a_coarse_grid_and_a_fine_one_speak_of_the_same_places():
    coarse, fine = sincos_grid(4, 32), sincos_grid(8, 32).view(8, 8, 32)
    nearest = torch.cdist(coarse, fine.flatten(0, 1)).argmin(dim=1)
    assert all((n // 8 // 2, n % 8 // 2) == divmod(i, 4) for i, n in enumerate(nearest.tolist()))
    assert torch.cdist(coarse, coarse).fill_diagonal_(9).min() > 0.5


def test_a_models_own_size_is_taken_even_where_it_cuts_pixels():
    with torch.device("meta"):
        assert build_encoder(EncoderConfig(name="vit_so400m_patch14_siglip_384", image_size=384, depth=1)).grid == 27


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(TIMM, name="vit_base_patch16_22"), "did you mean 'vit_base_patch16_224'"),
        (dataclasses.replace(TIMM, name="vit_base_patch16_224.augreg"), "did you mean 'vit_base_patch16_224'"),
        (dataclasses.replace(RESOLVED, name="hf-hub:timm/vit_base_patch16_224.mae"), "timm has no model 'hf-hub:timm"),
        (dataclasses.replace(RESOLVED, name="local-dir:/tmp/x"), "timm has no model 'local-dir:/tmp/x'"),
        (dataclasses.replace(RESOLVED, library="open_clip", name="hf-hub:a/b"), "open_clip has no model 'hf-hub:a/b'"),
        (dataclasses.replace(TIMM, pretrained=""), "has no weights ''"),
        (dataclasses.replace(OPEN_CLIP, pretrained=""), "has no weights ''"),
        (dataclasses.replace(OPEN_CLIP, name="VIT-B-32"), "did you mean 'ViT-B-32'"),
        (EncoderConfig(name="resnet18"), "'resnet18' cannot be built"),
        (EncoderConfig(name="naflexvit_base_patch16_gap"), "NaFlexVit, not a Vision Transformer"),
        (EncoderConfig(name="swin_tiny_patch4_window7_224"), "SwinTransformer, not a Vision Transformer"),
        (EncoderConfig(name="eva02_tiny_patch14_224", activation="relu"), "unexpected keyword argument 'act_layer'"),
        (dataclasses.replace(TIMM, name="vit_giant_patch14_dinov2", ffn_dim=33), "AssertionError: assert hidden_features % 2"),
        (
            EncoderConfig(name="vit_small_patch14_dinov2", image_size=500),
            "500 is not a multiple of .* 14; try 504",
        ),
        (EncoderConfig("open_clip", "ViT-B-32", 230), "230 is not a multiple of ViT-B-32's patches of 32; try 224"),
        (dataclasses.replace(TIMM, num_heads=3), "divisible by num_heads"),
        (dataclasses.replace(OPEN_CLIP, num_heads=3), "divisible by num_heads"),
        (dataclasses.replace(OPEN_CLIP, stem="conv"), "use library: timm"),
        (dataclasses.replace(OPEN_CLIP, activation="relu"), "use library: timm"),
        (dataclasses.replace(OPEN_CLIP, name="coca_ViT-B-32"), "pools its patches"),
        (EncoderConfig("open_clip", "RN50"), "has no Vision Transformer"),
        (EncoderConfig("open_clip", "ViT-B-16-SigLIP", width=32), "through library: timm"),
        (EncoderConfig("open_clip", "ViT-B-16-SigLIP", ffn_dim=32), "through library: timm"),
        (EncoderConfig(name="vit_small_patch14_dinov2", stem="conv"), "power of 2, not 14"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as error, torch.device("meta"):
        build_encoder(config)
    assert "\n" not in str(error.value)
