"""Texts are pasted from masks, and look as Pillow draws them where they stand."""

import PIL.Image
import PIL.ImageDraw
import pytest

from datasets.charts.perturb import FONTS
from datasets.charts.rng import Draw
from datasets.charts.text import Printed, font, put_text

TEXTS = ("Average yield", "To", "AV", "12,345", "$7.5", "Müller & Co", "jagged", "1", " ")


def by_pillow(item):
    image = PIL.Image.new("RGB", (160, 80), (250, 240, 230))
    PIL.ImageDraw.Draw(image).text((item.x, item.y), item.text, item.colour, font(item.size, item.font), item.anchor)
    return image


@pytest.mark.parametrize("file", ["", FONTS[0]], ids=["own", "other"])
@pytest.mark.parametrize("anchor", ["mm", "lm", "rm", "la"])
def test_a_text_looks_as_pillow_draws_it_wherever_it_stands(anchor, file):
    draw = Draw("texts", anchor)
    for number in range(300):
        x, y = (draw.pick((0.0, 0.25, 0.5, 0.497, 0.503, draw.uniform(0, 1))) for _ in range(2))
        place = draw.integer(0, 160) + x, draw.integer(0, 80) + y
        item = Printed(TEXTS[number % len(TEXTS)], *place, draw.integer(9, 36), (20, 30, 90), anchor, font=file)
        image = PIL.Image.new("RGB", (160, 80), (250, 240, 230))
        put_text(image, item)
        assert image.tobytes() == by_pillow(item).tobytes(), item
