"""Hashes of pictures: by their content, whatever holds it."""

import PIL.Image

from datasets.charts.samples import ChartSource
from eval.hashing import image_hash
from vlm.sample import Image, Sample, Video


def test_a_drawing_has_the_hash_of_its_picture():
    first, second = (ChartSource().get(0, index).segments[0].data for index in range(2))
    assert image_hash(Sample((Image(first),))) == image_hash(Sample((Image(first.render()),)))
    assert image_hash(Sample((Image(first),))) != image_hash(Sample((Image(second),)))
    assert image_hash(Sample((Video((first, second)),))) == image_hash(Sample((Image(first), Image(second))))


def test_size_and_mode_of_a_picture_are_part_of_its_hash():
    wide, high, grey = PIL.Image.new("RGB", (2, 1)), PIL.Image.new("RGB", (1, 2)), PIL.Image.new("L", (6, 1))
    assert len({image_hash(Sample((Image(picture),))) for picture in (wide, high, grey)}) == 3
