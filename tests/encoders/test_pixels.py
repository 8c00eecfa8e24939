"""A model's own preprocessing, by name and tag: statistics, interpolation, and the very pixels where nothing is cropped."""

import dataclasses

import numpy as np
import open_clip
import PIL.Image
import pytest
import timm
import timm.data
import torch
from encoder_fakes import OPEN_CLIP, TEXT, TIMM, TOWER, load, save_weights
from open_clip.transform import PreprocessCfg, image_transform_v2

from encoders import EncoderConfig, build_encoder, native_pixels
from vlm.image import ImageTransform

CLIP = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ZERO = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("library", "name", "tag", "statistics", "interpolation"),
    [
        ("timm", "vit_base_patch16_224", None, HALF, "bicubic"),
        ("timm", "vit_base_patch16_224", "augreg_in21k", HALF, "bicubic"),
        ("timm", "vit_base_patch16_224", "mae", IMAGENET, "bicubic"),
        ("timm", "vit_base_patch16_clip_224", None, CLIP, "bicubic"),
        ("timm", "vit_small_patch14_reg4_dinov2", None, IMAGENET, "bicubic"),
        ("open_clip", "ViT-B-32", None, CLIP, "bicubic"),
        ("open_clip", "ViT-B-32", "laion2b_s34b_b79k", CLIP, "bicubic"),
        ("open_clip", "ViT-B-16-SigLIP", "webli", HALF, "bicubic"),
        ("open_clip", "MobileCLIP-B", "datacompdr", ZERO, "bilinear"),
        ("open_clip", "ViT-B-16-SigLIP", None, CLIP, "bicubic"),  # no weights: open_clip's defaults
    ],
)
def test_statistics_and_interpolation_are_the_tags(library, name, tag, statistics, interpolation):
    native = native_pixels(EncoderConfig(library, name, pretrained=tag))
    assert ((native.mean, native.std), native.interpolation) == (statistics, interpolation)


@pytest.mark.parametrize(("name", "statistics"), [("ViT-B-16-SigLIP", HALF), ("ViT-B-32", CLIP), ("MobileCLIP-B", ZERO)])
def test_a_file_is_taken_to_be_like_the_published_weights(name, statistics, tmp_path):
    (tmp_path / "weights.pt").touch()
    native = native_pixels(EncoderConfig("open_clip", name, pretrained=str(tmp_path / "weights.pt")))
    assert (native.mean, native.std) == statistics


def test_what_the_config_says_goes_first():
    said = dataclasses.replace(TIMM, mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    native = native_pixels(said)
    assert (native.mean, native.std, native.interpolation) == ((0.1, 0.2, 0.3), HALF[1], "bilinear")
    assert native_pixels(native) is native and build_encoder(said).config == native


def test_every_published_vit_has_pixels_of_its_own():
    names = timm.list_models("vit_*", pretrained=True)[::9]
    for name, _, tag in (full.partition(".") for full in names):
        published, native = timm.get_pretrained_cfg(f"{name}.{tag}"), native_pixels(EncoderConfig(name=name, pretrained=tag))
        assert (native.mean, native.std, native.interpolation) == (published.mean, published.std, published.interpolation)
    for name, tag in open_clip.list_pretrained()[::5]:
        published = open_clip.get_pretrained_cfg(name, tag)
        native = native_pixels(EncoderConfig("open_clip", name, pretrained=tag))
        assert (native.mean, native.std, native.interpolation) == tuple(published[k] for k in ("mean", "std", "interpolation"))


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0)])
def test_a_deviation_that_is_not_positive_is_refused(std):
    with pytest.raises(ValueError, match=r"encoder\.std"):
        EncoderConfig(std=std)


# -- against the libraries' own transforms ------------------------------------------------------------------------------


def picture(width, height):
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ours(encoder, image, mode, backend="pillow"):
    pixels = ImageTransform(encoder.config.image_size, mode, encoder.config.interpolation, backend=backend)(image)
    return encoder.normalise(pixels[None])[0]


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_base_patch16_clip_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("mode", ["letterbox", "squash"])
@pytest.mark.parametrize("backend", ["pillow", "torch"])
def test_a_picture_of_the_native_size_is_timms(name, mode, backend):
    encoder = build_encoder(dataclasses.replace(TIMM, name=name))
    data = timm.data.resolve_model_data_config(encoder.model)
    theirs = timm.data.create_transform(**data | {"input_size": (3, 32, 32), "crop_pct": 1.0})
    assert torch.equal(ours(encoder, picture(32, 32), mode, backend), theirs(picture(32, 32)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(50, 20), (20, 50), (7, 9), (32, 31), (300, 200)])
def test_a_squash_is_timms(size, interpolation):
    encoder = build_encoder(dataclasses.replace(TIMM, interpolation=interpolation))
    data = timm.data.resolve_model_data_config(encoder.model)
    data |= {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": interpolation}
    assert torch.equal(ours(encoder, picture(*size), "squash"), timm.data.create_transform(**data)(picture(*size)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("mode", "theirs"), [("squash", "squash"), ("letterbox", "longest")])
@pytest.mark.parametrize("size", [(50, 20), (20, 50), (7, 9), (32, 32), (33, 31), (300, 200)])
def test_squash_and_letterbox_are_open_clips(size, mode, theirs, interpolation):
    encoder = build_encoder(dataclasses.replace(OPEN_CLIP, interpolation=interpolation))
    transform = image_transform_v2(
        PreprocessCfg(size=32, resize_mode=theirs, interpolation=interpolation, fill_color=255), is_train=False
    )
    assert torch.equal(ours(encoder, picture(*size), mode), transform(picture(*size)))
    levels = (ours(encoder, picture(*size), mode, "torch") - transform(picture(*size))).abs() * 255 * min(encoder.config.std)
    assert levels.max() < 16 and levels.mean() < 0.5  # noise, and 20x50 in another order of passes


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
@pytest.mark.parametrize("backend", ["pillow", "torch"])
def test_a_picture_of_the_native_size_is_open_clips(mode, backend):
    encoder = build_encoder(OPEN_CLIP)
    _, _, transform = open_clip.create_model_and_transforms("ViT-B-32", vision_cfg=TOWER, text_cfg=TEXT)
    assert torch.equal(ours(encoder, picture(32, 32), mode, backend), transform(picture(32, 32)))


@torch.no_grad()
def test_from_picture_to_tokens_a_file_gives_what_open_clip_gives(tmp_path):
    path = tmp_path / "weights.pt"
    save_weights(OPEN_CLIP, path)
    encoder, image = load(OPEN_CLIP, path), picture(32, 32)
    towers = {"vision_cfg": TOWER, "text_cfg": TEXT}
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=str(path), **towers)
    model.visual.output_tokens = True
    assert torch.equal(encoder(ImageTransform(32)(image)[None]), model.visual.eval()(transform(image)[None])[1])
