"""Pictures from anywhere, and files that are none."""

import dataclasses
import io
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
import torchvision
from vlm_fakes import CONFIG, build, byte_tokenizer, image

import vlm.image
from encoders import EncoderConfig, native_pixels
from vlm import Sample, Text
from vlm.image import MAX_PIXELS, ImageTransform, decode, open_image
from vlm.load import build_processor
from vlm.sample import Drawing


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def colour(image):
    return np.asarray(image).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()


def near(a, b, by=4):
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= by


def ramp(mode, top):
    """A row from black to the format's white."""
    return PIL.Image.fromarray(np.linspace(0, top, 64).astype(mode)[None].repeat(4, axis=0))


@pytest.fixture(params=["pillow", "torch"])
def backend(request):
    return request.param


@pytest.fixture
def opened(backend):
    """A reader of pictures, as each backend opens them."""
    return open_image if backend == "pillow" else lambda data: PIL.Image.fromarray(decode(data).permute(1, 2, 0).numpy())


def test_cmyk_jpeg(opened):
    data = encoded(PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert near(colour(opened(data)), [255, 0, 0], by=12)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "RGB", "L"])
def test_transparency_is_over_white(mode, opened):
    if mode == "P":
        image = PIL.Image.new("P", (4, 4), 0)
        image.putpalette([10, 20, 30, 200, 0, 0])
        image.putpixel((0, 0), 1)
        data = encoded(image, transparency=0)
    elif mode in ("LA", "RGBA"):
        data = encoded(PIL.Image.new(mode, (4, 4), (9, 0) if mode == "LA" else (9, 9, 9, 0)))
    else:
        data = encoded(
            PIL.Image.new(mode, (4, 4), 7 if mode == "L" else (7, 7, 7)), transparency=7 if mode == "L" else (7, 7, 7)
        )
    pixels = np.asarray(opened(data))
    assert pixels[3, 3].tolist() == [255, 255, 255]
    if mode == "P":
        assert pixels[0, 0].tolist() == [200, 0, 0]


def test_half_transparent_is_mixed_with_white(opened):
    assert near(colour(opened(encoded(PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 128))))), [255, 127, 127], by=1)


def test_sixteen_bits_keep_the_upper_eight(opened):
    row = np.asarray(opened(encoded(ramp(np.uint16, 65535))))[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row) > 0).all()


def test_a_dark_sixteen_bit_picture_stays_dark(opened):
    assert np.asarray(opened(encoded(ramp(np.uint16, 200)))).max() <= 1


@pytest.mark.parametrize("mode", [np.int32, np.float32])
def test_integers_and_floats_of_eight_bits(mode, opened):
    row = np.asarray(opened(encoded(ramp(mode, 255), "TIFF")))[0, :, 0]
    assert row[0] == 0 and row[-1] == 255


def test_one_bit(opened):
    image = PIL.Image.new("1", (8, 8), 0)
    image.putpixel((3, 2), 1)
    pixels = np.asarray(opened(encoded(image)))
    assert pixels[2, 3].tolist() == [255] * 3 and pixels.sum() == 255 * 3


def test_exif_rotation_is_applied(opened):
    image = PIL.Image.new("RGB", (20, 10), "black")
    image.paste((255, 255, 255), (0, 0, 10, 10))  # left half white
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    turned = opened(encoded(image, "JPEG", exif=exif, quality=95))
    assert turned.size == (10, 20)
    assert turned.getpixel((5, 3))[0] > 240 and turned.getpixel((5, 16))[0] < 15


def test_first_frame_of_an_animation(opened):
    frames = [PIL.Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    assert colour(opened(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))) == [255, 0, 0]


def png_header(width, height):
    """A PNG whose header claims any size, and whose data would be a bomb."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


JPEG = encoded(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")
SIZE = JPEG.index(b"\xff\xc0") + 5  # where a baseline JPEG has its height and width


def jpeg_header(width, height):
    """A JPEG that claims any size."""
    return JPEG[:SIZE] + struct.pack(">HH", height, width) + JPEG[SIZE + 4 :]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        JPEG[: len(JPEG) // 2],
        JPEG[:20],
        encoded(PIL.Image.new("RGB", (50, 50)))[:60],
        EPS,
        png_header(0, 5),
    ],
    ids=["empty", "text", "half-jpeg", "jpeg-head", "png-head", "eps", "no-width"],
)
def test_what_is_no_whole_picture_is_refused_in_one_line(data, opened):
    with pytest.raises(ValueError) as error:
        opened(data)
    assert str(error.value) and "\n" not in str(error.value)


@dataclass(frozen=True)
class Canvas(Drawing):
    picture: object

    def render(self):
        return self.picture


def test_a_drawing_is_decoded_as_what_it_draws(opened):
    picture = PIL.Image.effect_mandelbrot((30, 20), (-2, -1, 1, 1), 50).convert("RGB")
    assert np.array_equal(opened(Canvas(picture)), opened(picture))


@pytest.mark.parametrize(
    "data",
    [None, "chart.png", 7, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3)), Canvas(None)],
    ids=["none", "text", "number", "grey", "empty", "floats", "draws-none"],
)
def test_what_is_no_picture_at_all_is_refused_in_one_line(data, opened):
    with pytest.raises(ValueError, match=r"^a picture('s pixels are uint8 \[H, W, 3\]| is encoded bytes, .*), not [^\n]+$"):
        opened(data)


def test_pixels_are_taken_as_they_are(opened):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(opened(pixels), opened(PIL.Image.fromarray(pixels)))
    assert np.array_equal(opened(pixels[::-1]), opened(PIL.Image.fromarray(pixels[::-1].copy())))


def test_a_mistake_in_a_drawing_is_not_taken_for_a_broken_picture(opened):
    class Faulty(Drawing):
        def render(self):
            return [][1]

    with pytest.raises(IndexError):
        opened(Faulty())


@pytest.mark.parametrize("size", [(11_000, 11_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_a_pixel_is_decoded(size, monkeypatch, opened):
    assert size[0] * size[1] > MAX_PIXELS
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda data: pytest.fail("decoded"))
    with pytest.raises(ValueError):
        opened(png_header(*size))
    if max(size) < 1 << 16:
        with pytest.raises(ValueError):
            opened(jpeg_header(*size))


def test_a_bomb_takes_no_memory():
    script = f"""
import resource, vlm.image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: vlm.image.open_image(bytes.fromhex({png_header(11_000, 11_000).hex()!r}))
except ValueError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert grown < 40_000  # KiB; decoded, it would be 360,000


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (3, 5), (1, 1)])
@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_any_shape_becomes_the_square(size, mode, backend):
    pixels = ImageTransform(32, mode, backend=backend)(PIL.Image.new("RGB", size, "black"))
    assert pixels.shape == (3, 32, 32) and pixels.is_contiguous() and pixels.min() == 0


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (400, 100), (7, 28)])
def test_letterbox_keeps_aspect_and_centres(size, backend):
    pixels = ImageTransform(32, backend=backend)(PIL.Image.new("RGB", size, "black"))
    rows, columns = (pixels[0] < 128).any(1).nonzero()[:, 0], (pixels[0] < 128).any(0).nonzero()[:, 0]
    height, width = len(rows), len(columns)
    assert max(height, width) == 32 and width / height == pytest.approx(size[0] / size[1])
    for line in (rows, columns):
        assert abs(int(line[0]) - (31 - int(line[-1]))) <= 1
    assert pixels.max() == 255  # white bars


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_nothing_is_mirrored_or_turned(mode, backend):
    image = PIL.Image.new("RGB", (60, 40), "black")
    image.paste((255, 0, 0), (0, 0, 30, 20))  # top left
    image.paste((0, 0, 255), (30, 20, 60, 40))  # bottom right
    pixels = ImageTransform(32, mode, backend=backend)(image)
    for (row, column), expected in {(10, 4): [255, 0, 0], (22, 27): [0, 0, 255], (10, 27): [0] * 3, (22, 4): [0] * 3}.items():
        assert near(pixels[:, row, column].tolist(), expected, by=3)


def test_a_picture_of_the_right_size_is_untouched(backend):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (ImageTransform(32, backend=backend)(encoded(PIL.Image.fromarray(pixels))).permute(1, 2, 0).numpy() == pixels).all()


def test_interpolation_is_what_it_says():
    image = PIL.Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for name in ("bicubic", "bilinear"):
        expected = image.resize((32, 32), PIL.Image.Resampling[name.upper()])
        assert (ImageTransform(32, "squash", name)(image).permute(1, 2, 0).numpy() == np.asarray(expected)).all()


PHOTO = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((61, 45))


@pytest.mark.parametrize(
    "options",
    [{"subsampling": s, "progressive": p, "restart_marker_blocks": r} for s in (0, 1, 2) for p in (0, 1) for r in (0, 2)]
    + [{"keep_rgb": True}, {"quality": 20}, {"optimize": True}],
)
def test_both_backends_decode_a_jpeg_to_the_same_pixels(options):
    data = encoded(PHOTO, "JPEG", **options)
    assert (decode(data).permute(1, 2, 0).numpy() == np.asarray(open_image(data))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "L"])
def test_a_large_picture_is_what_a_small_one_would_be(mode, orientation, backend, monkeypatch):
    picture = PHOTO.resize((611, 453), PIL.Image.Resampling.BICUBIC)
    picture = PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else picture
    picture = picture if mode == "I;16" else picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "TIFF", exif=exif)
    transforms = [ImageTransform(24, fit, backend=backend) for fit in ("letterbox", "squash")]
    whole, opened = [transform(data) for transform in transforms], open_image(data)
    monkeypatch.setattr(vlm.image, "LARGE", 1000)
    monkeypatch.setattr(vlm.image, "STRIP", 5000)
    again = open_image(data)
    assert (np.asarray(again) == np.asarray(opened)).all() and (np.asarray(open_image(again)) == np.asarray(opened)).all()
    for transform, expected in zip(transforms, whole, strict=True):
        difference = (transform(data).int() - expected.int()).abs().float()
        assert difference.max() <= 6 and difference.mean() < 0.6


@pytest.mark.parametrize("size", [(9000, 2), (3, 9000), (1001, 999)])
def test_a_large_picture_of_any_shape(size, backend, monkeypatch):
    monkeypatch.setattr(vlm.image, "LARGE", 1000)
    monkeypatch.setattr(vlm.image, "STRIP", 700)
    assert ImageTransform(32, backend=backend)(PIL.Image.new("RGBA", size, (7, 7, 7, 255))).min() == 7


def test_a_format_that_decodes_in_more_memory_has_a_lower_limit(monkeypatch, opened):
    monkeypatch.setattr(vlm.image, "MAX_DECODING", 10 * 61 * 45)
    for options in ({}, {"progressive": True, "subsampling": 2}, {"progressive": True, "subsampling": 0}):
        assert opened(encoded(PHOTO, "JPEG", **options)).size == PHOTO.size
    monkeypatch.setattr(vlm.image, "MAX_DECODING", 9 * 61 * 45)
    assert opened(encoded(PHOTO, "JPEG", progressive=True, subsampling=2)).size == PHOTO.size
    refused = [encoded(PHOTO, "JPEG", progressive=True, subsampling=0), encoded(PHOTO, "WEBP"), encoded(PHOTO, "JPEG2000")]
    for data in refused:
        with pytest.raises(ValueError, match="image of 61x45 pixels is over the limit"):
            opened(data)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_hundred_megapixels_are_held_once(mode, tmp_path, backend):
    PIL.Image.new(mode, (10_900, 10_900)).save(tmp_path / "large.png", compress_level=1)
    script = f"""
import pathlib, resource, vlm.image
data = pathlib.Path({str(tmp_path / "large.png")!r}).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vlm.image.ImageTransform(224, backend={backend!r})(data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert grown < 600_000  # KiB; the picture itself is 464,000 or half of that


def told(reader, data):
    try:
        return np.asarray(reader(data)).tolist()
    except ValueError as error:
        return str(error)


def test_both_backends_read_and_refuse_the_same_damaged_jpegs():
    chance, sound = random.Random(0), [encoded(PHOTO, "JPEG"), encoded(PHOTO, "JPEG", progressive=True)]
    outcomes = Counter()
    for _ in range(400):
        data = bytearray(chance.choice(sound))
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.randrange(4) if data else 0):
            data[chance.randrange(min(len(data), chance.choice([30, 700, 9999])))] = chance.randrange(256)
        by_pillow, by_torch = told(open_image, bytes(data)), told(lambda d: decode(d).permute(1, 2, 0), bytes(data))
        assert by_pillow == by_torch
        outcomes[type(by_torch)] += 1
    assert min(outcomes[str], outcomes[list]) > 50


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["letterbox", "squash"])
@pytest.mark.parametrize("size", [(61, 45), (45, 61), (300, 200), (20, 17), (32, 9), (1, 40)])
def test_torch_differs_from_pillow_by_levels(size, mode, interpolation):
    image = PHOTO.resize(size)
    by = [ImageTransform(32, mode, interpolation, backend=name)(encoded(image)).int() for name in ("pillow", "torch")]
    difference = (by[0] - by[1]).abs().float()
    assert difference.max() <= 4 and difference.mean() < 0.25


def test_the_backend_travels_with_the_saved_model(tmp_path):
    config = dataclasses.replace(CONFIG, image_backend="torch")
    vlm.save(tmp_path / "model", build(config), build_processor(config, byte_tokenizer()))
    assert vlm.load(tmp_path / "model")[1].image.backend == "torch"
    assert build_processor(CONFIG, byte_tokenizer()).image.backend == "pillow"


def test_a_tags_pixels_travel_with_the_saved_model(tmp_path, monkeypatch):
    """The tag is gone after `save`: its statistics and interpolation must not be."""
    tag = open_clip.get_pretrained_cfg("MobileCLIP-B", "datacompdr")  # bilinear, no statistics
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["tag"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, which: tag)
    encoder = EncoderConfig("open_clip", "ViT-B-32", 16, patch_size=4, width=16, depth=1, num_heads=2)
    tagged = dataclasses.replace(CONFIG, encoder=dataclasses.replace(encoder, pretrained="tag"), image_mode="squash")
    processor = build_processor(tagged, byte_tokenizer())
    assert processor.image == ImageTransform(16, "squash", "bilinear")
    model = build(dataclasses.replace(tagged, encoder=encoder))
    model.encoder.config = native_pixels(tagged.encoder)  # as if the tag's weights had been there to load
    vlm.save(tmp_path / "model", model, processor)
    monkeypatch.undo()
    again, loaded = vlm.load(tmp_path / "model")
    assert loaded.image == processor.image and again.encoder.config.mean == (0.0, 0.0, 0.0)
    batch = processor([Sample((image(5), Text("x")))])
    assert torch.equal(again.encoder(batch.images), model.encoder(batch.images))
