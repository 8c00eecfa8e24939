import numpy as np
import PIL.Image
import pytest
from quality_fakes import chart, encoded

from datasets.quality.pictures import COARSE, FINE, PictureHashes, PictureIndex, perceptual_hash

EDITS = {
    "jpeg": lambda image: encoded(image, "JPEG", quality=40),
    "half": lambda image: encoded(image.resize((160, 110), PIL.Image.Resampling.BICUBIC)),
    "double": lambda image: encoded(image.resize((640, 440), PIL.Image.Resampling.BICUBIC)),
    "webp": lambda image: encoded(image, "WEBP", quality=60),
    "grey": lambda image: encoded(image.convert("L")),
    "palette": lambda image: encoded(image.convert("P")),
}


@pytest.fixture(scope="module")
def index():
    index = PictureIndex(15)
    for seed in range(200):
        index.add(perceptual_hash(encoded(chart(seed))))
    return index


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_picture_is_found_as_its_original(edit, index):
    found = [index.find(perceptual_hash(EDITS[edit](chart(seed)))) for seed in range(40)]
    assert sum(bool(f) and f[0][1] == seed for seed, f in enumerate(found)) >= 39


def test_other_charts_of_the_same_template_are_not_found(index):
    assert not any(index.find(perceptual_hash(chart(seed))) for seed in range(1000, 1060))
    assert not index.find(perceptual_hash(encoded(chart(0).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT))))


def test_every_pair_within_the_distance_is_found():
    rng = np.random.default_rng(3)
    index, base = PictureIndex(15), rng.integers(0, 1 << 16, COARSE + FINE, np.uint16)
    index.add(base)
    for distance in range(18):
        bits = np.unpackbits(base.view(np.uint8))
        bits[rng.choice(16 * COARSE, distance, replace=False)] ^= 1
        found = index.find(np.packbits(bits).view(np.uint16))
        assert found == ([(distance, 0)] if distance <= 15 else [])


def test_blank_pictures_look_the_same_and_broken_ones_are_refused():
    white, cream = (encoded(PIL.Image.new("RGB", (90, 60), c)) for c in ("white", "#fffbf5"))
    hashes = PictureHashes()
    assert np.array_equal(hashes(white), hashes(cream)) and hashes(white) is hashes(white)
    with pytest.raises(ValueError, match="image cannot be decoded"):
        hashes(white[:40])
    with pytest.raises(ValueError, match="picture_distance is 16: want 0 to 15"):
        PictureIndex(16)
