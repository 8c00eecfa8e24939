"""timm and open_clip behind one protocol: their own tokens, their own normalisation, their own weights."""

import dataclasses
import pickle

import open_clip
import pytest
import timm
import timm.data
import torch
from safetensors.torch import save_file

from encoders import EncoderConfig, build_encoder
from encoders.positions import sincos_grid

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 2}
TIMM = EncoderConfig("timm", "vit_base_patch16_224", **SMALL)
OPEN_CLIP = EncoderConfig("open_clip", "ViT-B-32", **SMALL)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pictures(side=32):
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)


def normalised(images, mean, std):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean) / std


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_224", "vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224"],
)
def test_timm_tokens_are_the_librarys(name):
    encoder = build_encoder(dataclasses.replace(TIMM, name=name)).eval()
    peer = timm.create_model(
        name, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool=""
    ).eval()
    peer.load_state_dict(encoder.model.state_dict())
    data, images = timm.data.resolve_model_data_config(peer), pictures()
    with torch.no_grad():
        expected = peer.forward_features(normalised(images, data["mean"], data["std"]))[:, peer.num_prefix_tokens :]
        assert torch.equal(encoder(images), expected)
    assert (encoder.dim, encoder.grid) == (32, 4) and expected.shape == (3, 16, 32)


def test_open_clip_tokens_are_the_librarys():
    encoder = build_encoder(OPEN_CLIP).eval()
    peer = open_clip.create_model(
        "ViT-B-32", vision_cfg={"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    ).visual
    peer.load_state_dict(encoder.visual.state_dict(), strict=False)  # the projection of the pooled vector is not ours
    peer.output_tokens, images = True, pictures()
    with torch.no_grad():
        _, expected = peer.eval()(normalised(images, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
        assert torch.equal(encoder(images), expected)
    assert (encoder.dim, encoder.grid) == (32, 4) and expected.shape == (3, 16, 32)


CASES = [TIMM, dataclasses.replace(TIMM, stem="conv"), dataclasses.replace(TIMM, name="vit_base_patch16_siglip_224"), OPEN_CLIP]
IDS = ["timm", "conv", "siglip", "open_clip"]


@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_every_parameter_gets_a_gradient(config):
    encoder = build_encoder(config)
    (encoder(pictures()) * torch.randn(3, 16, 32)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_tokens_are_in_reading_order_and_pictures_apart(config):
    encoder, images = build_encoder(config).eval(), pictures()
    with torch.no_grad():
        base = encoder(images)
        images[1, :, 8:16, 24:32] = 255 - images[1, :, 8:16, 24:32]  # row 1, column 3
        moved = (encoder(images) - base).abs().amax(dim=-1)
    assert not moved[[0, 2]].any() and int(moved[1].argmax()) == 7


@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_a_meta_build_has_the_same_parameters(config):
    with torch.device("meta"):
        meta = build_encoder(config)
    real = build_encoder(config)
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    meta.to_empty(device="cpu").load_state_dict(real.state_dict())
    meta.reset_statistics()
    assert torch.equal(meta.eval()(x := pictures()), real.eval()(x))


def test_positions_start_as_sines_and_cosines_and_prefix_tokens_at_zero():
    table = build_encoder(TIMM).model.pos_embed[0]
    assert not table[0].any() and torch.equal(table[1:], sincos_grid(4, 32))


def test_a_coarse_grid_and_a_fine_one_speak_of_the_same_places():
    coarse, fine = sincos_grid(4, 32), sincos_grid(8, 32).view(8, 8, 32)
    nearest = torch.cdist(coarse, fine.flatten(0, 1)).argmin(dim=1)
    assert all((n // 8 // 2, n % 8 // 2) == divmod(i, 4) for i, n in enumerate(nearest.tolist()))
    assert torch.cdist(coarse, coarse).fill_diagonal_(9).min() > 0.5


# -- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("config", [TIMM, OPEN_CLIP], ids=["timm", "open_clip"])
def test_a_local_weights_file_gives_the_same_tokens(config, suffix, tmp_path):
    path, images = tmp_path / f"weights{suffix}", pictures()
    tokens = save_weights(config, path)(images)
    loaded = build_encoder(dataclasses.replace(config, pretrained=str(path))).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), tokens)


def save_weights(config, path):
    """Random weights in the library's own layout; returns the encoder that holds them."""
    encoder = build_encoder(config).eval().requires_grad_(False)
    if config.library == "timm":
        state = encoder.model.state_dict()
    else:
        tower = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
        peer = open_clip.create_model(config.name, vision_cfg=tower)
        encoder.visual.load_state_dict({n: t for n, t in peer.visual.state_dict().items() if n != "proj"})
        state = peer.state_dict()
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    return encoder


@pytest.mark.parametrize("config", [TIMM, OPEN_CLIP], ids=["timm", "open_clip"])
def test_positions_are_interpolated_to_another_size(config, tmp_path):
    small = save_weights(config, tmp_path / "weights.pth")
    large = build_encoder(dataclasses.replace(config, image_size=64, pretrained=str(tmp_path / "weights.pth")))
    assert large.grid == 8 and large(pictures(64)).shape == (3, 64, 32)

    def grid(encoder):
        table = encoder.model.pos_embed[0] if config.library == "timm" else encoder.visual.positional_embedding
        return table[1:].detach().view(encoder.grid, encoder.grid, 32).permute(2, 0, 1)[None]

    expected = torch.nn.functional.interpolate(grid(small), size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(grid(large), expected, atol=1e-4, rtol=1e-3)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("config", [TIMM, OPEN_CLIP], ids=["timm", "open_clip"])
def test_bad_weights_are_refused_in_one_line(config, tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"x": Evil()}))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("evil.pth", "other.pth", "broken.safetensors", "missing.pth", "no_such_tag"):
        value = name if name == "no_such_tag" else str(tmp_path / name)
        with pytest.raises(ValueError, match=name) as error:
            build_encoder(dataclasses.replace(config, pretrained=value))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(TIMM, name="vit_base_patch16_22"), "did you mean 'vit_base_patch16_224'"),
        (dataclasses.replace(TIMM, name="vit_base_patch16_224.augreg"), "did you mean 'vit_base_patch16_224'"),
        (dataclasses.replace(OPEN_CLIP, name="VIT-B-32"), "did you mean 'ViT-B-32'"),
        (EncoderConfig(name="resnet18"), "'resnet18' cannot be built"),
        (dataclasses.replace(TIMM, num_heads=3), "divisible by num_heads"),
        (dataclasses.replace(OPEN_CLIP, num_heads=3), "divisible by num_heads"),
        (dataclasses.replace(OPEN_CLIP, stem="conv"), "use library: timm"),
        (dataclasses.replace(OPEN_CLIP, name="coca_ViT-B-32"), "pools its patches"),
        (EncoderConfig("open_clip", "ViT-B-16-SigLIP", width=32), "through library: timm"),
        (EncoderConfig(name="vit_small_patch14_dinov2", stem="conv"), "power of 2, not 14"),
    ],
)
def test_what_cannot_be_built_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(config)
