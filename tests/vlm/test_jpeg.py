"""What is taken for an ordinary JPEG is what Pillow opens as an RGB picture of that size, upright."""

import io
import random
import struct

import numpy as np
import PIL.Image
import pytest

import vlm.image
from vlm.image import ImageTransform, decode, open_image
from vlm.jpeg import ordinary_size, pixels

PHOTO = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8))


def jpeg(image=PHOTO, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def turned():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def with_segment(data, marker, content, at=2):
    return data[:at] + struct.pack(">HH", marker, len(content) + 2) + content + data[at:]


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"optimize": True}, {"comment": b"hello"}, {"restart_marker_rows": 1}]
)
def test_ordinary_files_are_told_from_their_header(subsampling, options, monkeypatch):
    data = jpeg(subsampling=subsampling, **options)
    expected = np.asarray(open_image(data))
    monkeypatch.setattr(PIL.Image, "open", lambda *_, **__: pytest.fail("opened by Pillow"))
    assert ordinary_size(data) == PHOTO.size
    assert (decode(data).permute(1, 2, 0).numpy() == expected).all()
    assert ImageTransform(32, backend="torch")(data).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "data",
    [
        turned(),
        jpeg(progressive=True),
        jpeg(PHOTO.convert("L")),
        jpeg(PHOTO.convert("CMYK")),
        jpeg(icc_profile=b"x" * 200),
        with_segment(jpeg(), 0xFFEE, b"Adobe\0\x64\0\0\0\0\0"),
        with_segment(jpeg(), 0xFFE0, b"JFXX\0" + bytes(20)),
        with_segment(jpeg(), 0xFFDB, b"\x10" + bytes(128)),
        b"",
        b"\xff\xd8",
        jpeg()[:100],
        b"\x89PNG\r\n\x1a\n" + bytes(50),
    ],
    ids=["exif", "progressive", "grey", "cmyk", "profile", "adobe", "jfxx", "16-bit table", "empty", "start", "cut", "png"],
)
def test_all_else_is_left_to_pillow(data):
    assert ordinary_size(data) is None


def test_a_large_ordinary_picture_is_judged_by_pillow(monkeypatch):
    monkeypatch.setattr(vlm.image, "MAX_PIXELS", 1000)
    monkeypatch.setattr(vlm.image, "LARGE", 1000)
    for read in (decode, ImageTransform(8, backend="torch")):
        with pytest.raises(ValueError, match="61x45 pixels is over the limit of 1,000"):
            read(jpeg())


def test_pillow_agrees_on_every_changed_header_that_is_taken():
    chance, sound, taken = random.Random(0), [jpeg(), jpeg(subsampling=0, optimize=True), jpeg(comment=b"a" * 30)], 0
    for _ in range(3000):
        data = bytearray(chance.choice(sound))
        end = data.index(b"\xff\xda")
        for _ in range(chance.randrange(3)):
            data[chance.randrange(2, end)] = chance.choice([0, 1, 2, 3, 8, 16, 0xC0, 0xC2, 0xE1, 0xFF, chance.randrange(256)])
        if chance.random() < 0.3:
            data = with_segment(data, chance.randrange(0xFFC0, 0x10000), chance.randbytes(chance.choice([0, 6, 14, 65, 130])))
        size = ordinary_size(bytes(data))
        if size and size[0] * size[1] < 1 << 20 and pixels(bytes(data)) is not None:
            taken += 1
            image = PIL.Image.open(io.BytesIO(data), formats=vlm.image.FORMATS)
            assert (image.size, image.mode, image.format, image.getexif().get(0x0112, 1)) == (size, "RGB", "JPEG", 1)
    assert taken > 500
