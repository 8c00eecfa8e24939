"""Printed text: the scalable font inside Pillow (no system font, so the same pixels everywhere), measured and drawn once.

Charts print the same names and numbers again and again, and laying out and drawing one takes ten times as long as pasting it:
each is kept as a mask. The advances of this font are whole pixels, so half a pixel more moves a text as a whole, and no pixel
of it depends on where it stands. Those of other fonts are not: their texts are drawn anew wherever they stand, and so are
large ones, which are many bytes and seldom printed twice.

Another font (of matplotlib's own) takes the same room: it is drawn smaller, as its letters are wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

MASKS, LARGE = 16384, 32  # texts that are kept, and from which size (pixels) none is: by estimate 20 MB
OTHER_FONT_SCALE = 0.84  # size at which matplotlib's DejaVu fonts are about as wide as Pillow's


@dataclass(frozen=True, slots=True)
class Printed:
    """One text at (x, y); `anchor` as in Pillow (`mm` its middle, `rm` its right end, `la` its top left). A rotated one reads
    upwards, its top end at (x, y), centred across."""

    text: str
    x: float
    y: float
    size: int
    colour: tuple[int, int, int]
    anchor: str = "mm"
    rotated: bool = False
    font: str = ""  # a file of matplotlib's font folder; "" is the font inside Pillow
    heading: bool = False  # a title, the name of an axis or an entry of the legend; else it belongs to one tick or mark


@lru_cache(maxsize=64)
def font(size: int, file: str = "") -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    if not file:
        return PIL.ImageFont.load_default(size)
    import matplotlib

    return PIL.ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file, size)


@lru_cache(maxsize=16384)
def text_width(text: str, size: int) -> float:
    """Pixels."""
    return font(size).getlength(text)


def put_text(image: PIL.Image.Image, item: Printed) -> None:
    """Draw a text on an RGB picture; what lies outside is cut off."""
    if item.rotated:
        mask = _upright(item.text, item.size, item.font)
        image.paste(item.colour, (round(item.x - mask.width / 2), round(item.y)), mask)
        return
    if item.font or item.size >= LARGE:
        canvas = PIL.ImageDraw.Draw(image)
        canvas.text((item.x, item.y), item.text, fill=item.colour, font=font(item.size, item.font), anchor=item.anchor)
        return
    mask, left, top = _lying(item.text, item.size, item.anchor)
    x, y = (math.floor(64 * at + 0.5) for at in (item.x, item.y))  # FreeType's unit
    image.paste(item.colour, ((x + 32) // 64 + left, (y + 31) // 64 + top), mask)  # half a pixel goes right and up


@lru_cache(maxsize=MASKS)
def _lying(text: str, size: int, anchor: str) -> tuple[PIL.Image.Image, int, int]:
    """A text as a mask, and where its left and upper edge are from its anchor."""
    x, y = math.ceil(text_width(text, size)) + size, 2 * size  # room on all sides, whichever the anchor
    canvas = PIL.Image.new("L", (2 * x, 2 * y))
    PIL.ImageDraw.Draw(canvas).text((x, y), text, fill=255, font=font(size), anchor=anchor)
    box = canvas.getbbox() or (x, y, x + 1, y + 1)  # blanks have no ink
    return canvas.crop(box), box[0] - x, box[1] - y


@lru_cache(maxsize=1024)
def _upright(text: str, size: int, file: str) -> PIL.Image.Image:
    """A text turned to read upwards, as a mask."""
    mask = PIL.Image.new("L", (round(font(size, file).getlength(text)) + 2, size + 3))
    PIL.ImageDraw.Draw(mask).text((1, mask.height / 2), text, fill=255, font=font(size, file), anchor="lm")
    return mask.transpose(PIL.Image.Transpose.ROTATE_90)
