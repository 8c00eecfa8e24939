"""Pictures from anywhere → RGB arrays of one size. Files are hostile: size is checked before a pixel is decoded.

Charts and text are mirrored by flips and cut by crops, so there are neither: an image is letterboxed (aspect kept, padded)
or squashed (aspect lost) to the encoder's size, in either case with the interpolation its weights were trained with. A picture
of the encoder's size stays as it is; where the library squashes too (SigLIP, MobileCLIP), `squash` gives its very pixels.

Two backends: `pillow`, which published encoders are evaluated with, and `torch`, twice as fast for a level or two of
difference in a few pixels of a thousand, more in very tall pictures (docs/data.md). Both open, check and refuse the same
files; with `torch` an ordinary JPEG is decoded by torchvision, to the same pixels (vlm/jpeg.py).

A picture of 100 megapixels takes 400 MB as Pillow holds it, and every copy as much again. So a large one that must be turned
upright, made RGB or handed to torch is brought near its size first, strip by strip, as Pillow's own `reducing_gap` does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm import jpeg
from vlm.sample import Picture, drawn

# What photographs, scans and web pages hold. Pillow knows more formats, some of which run other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
MAX_PIXELS = 120_000_000  # 100-megapixel photographs pass, decompression bombs do not
MAX_DECODING = 720_000_000  # bytes that a decoder may need: more a pixel than the 4 of a picture, for some formats
LARGE = 16_000_000  # pixels from which copies of a whole picture are not made
STRIP = 1_000_000  # pixels that are worked on at a time, of a large picture
GAP = 4  # times the size asked for that a large picture keeps; Pillow's documentation calls 3 nearly the same as all
LYING = 5  # the EXIF orientations from here on exchange width and height


def open_image(data: Picture) -> PIL.Image.Image:
    """Decode to RGB: EXIF rotation applied, transparency over white, first frame of an animation.

    Raises `ValueError` with a one-line reason for anything that is not a whole, reasonably sized picture.
    """
    data = drawn(data)
    with _one_line_errors():
        return _upright(_loaded(_checked(data)))


def decode(data: Picture) -> Tensor:
    """As `open_image`, to uint8 [3, H, W] whose channels lie side by side in memory."""
    data = drawn(data)
    pixels = _ordinary(data)
    if pixels is not None:
        return pixels
    with _one_line_errors():
        image = _checked(data)
        pixels = _by_torchvision(image, data)
        return _array(_upright(_loaded(image))) if pixels is None else pixels


def _ordinary(data: bytes | PIL.Image.Image) -> Tensor | None:
    """The pixels of a JPEG that Pillow need not open; `None` for anything else."""
    size = jpeg.ordinary_size(data) if isinstance(data, bytes) else None
    return jpeg.pixels(data) if size and size[0] * size[1] <= LARGE else None


def _by_torchvision(image: PIL.Image.Image, data: bytes | PIL.Image.Image) -> Tensor | None:
    """The pixels of an RGB JPEG that is upright; `None` for anything else, and for what torchvision refuses: Pillow judges."""
    is_jpeg = isinstance(data, bytes) and image.format == "JPEG"
    return jpeg.pixels(data) if is_jpeg and image.mode == "RGB" and _orientation(image) == 1 else None


def _array(image: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ValueError:
        raise
    except PIL.UnidentifiedImageError:
        raise ValueError(f"image cannot be decoded: it is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders raise almost anything on a broken file
        raise ValueError(f"image cannot be decoded: {type(error).__name__}: {error}".splitlines()[0]) from None


def _checked(data: bytes | PIL.Image.Image) -> PIL.Image.Image:
    """The picture with its header read and no pixel decoded."""
    image = data if isinstance(data, PIL.Image.Image) else PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    limit = min(MAX_PIXELS, int(MAX_DECODING / _decoding(image)))
    if image.width * image.height > limit:
        raise ValueError(f"image of {image.width}x{image.height} pixels is over the limit of {limit:,}")
    return image


def _decoding(image: PIL.Image.Image) -> float:
    """Bytes a pixel at the height of decoding, all copies that a library keeps together."""
    if image.format in ("WEBP", "JPEG2000"):
        return 16.0 if image.format == "WEBP" else 20.0
    if image.format == "JPEG" and "progressive" in image.info:  # it keeps all coefficients, of 2 bytes
        _, across, down, _ = zip(*image.layer, strict=True)
        return 4 + 2 * sum(h * v for h, v in zip(across, down, strict=True)) / (max(across) * max(down))
    return 4.0


def _loaded(image: PIL.Image.Image) -> PIL.Image.Image:
    image.load()
    return image


def _orientation(image: PIL.Image.Image) -> int:
    return image.getexif().get(PIL.ExifTags.Base.Orientation, 1)


def _is_large(image: PIL.Image.Image) -> bool:
    return image.width * image.height > LARGE


def _is_plain(image: PIL.Image.Image) -> bool:
    """Can it be used as it is decoded?"""
    return image.mode == "RGB" and "transparency" not in image.info and _orientation(image) == 1


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    if _is_plain(image):
        return image
    if _is_large(image):
        return _turned(_in_strips(image, (1, 1)), _orientation(image))
    return _to_rgb(image if _orientation(image) == 1 else PIL.ImageOps.exif_transpose(image), _top(image))


def _turned(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """A new picture, which says nothing of its orientation, turned upright."""
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    image.info["exif"] = exif.tobytes()
    return PIL.ImageOps.exif_transpose(image)


def _in_strips(image: PIL.Image.Image, factors: tuple[int, int]) -> PIL.Image.Image:
    """RGB, and smaller by whole factors across and down, the means of boxes; not yet upright."""
    across, down = factors
    top, rows = _top(image), max(1, STRIP // (image.width * down)) * down
    small = PIL.Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    for start in range(0, image.height, rows):
        strip = image.crop((0, start, image.width, min(start + rows, image.height)))
        small.paste(_to_rgb(strip, top).reduce(factors), (0, start // down))
    return small


def _top(image: PIL.Image.Image) -> float:
    """The value that becomes 255, of one channel with more than 8 bits; others have that."""
    if image.mode in ("I", "F"):
        return 255.0 if image.getextrema()[1] <= 255 else 65535.0
    return 65535.0 if image.mode.startswith("I;16") else 255.0


def _to_rgb(image: PIL.Image.Image, top: float) -> PIL.Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32)
        image = PIL.Image.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, "white")
        image = PIL.Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


INTERPOLATION = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Any picture → uint8 [3, size, size]. Normalisation (mean, std) belongs to the encoder, on its own device."""

    size: int  # pixels, both sides
    mode: Literal["letterbox", "squash"] = "letterbox"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 255  # grey level of letterbox bars: white, as a chart's paper
    backend: Literal["pillow", "torch"] = "pillow"

    def __call__(self, data: Picture) -> Tensor:
        data = drawn(data)
        pixels = self._by_pillow(data) if self.backend == "pillow" else self._by_torch(data)
        height, width = pixels.shape[1:]
        if height == width == self.size:
            return pixels.contiguous()
        top, left = (self.size - height) // 2, (self.size - width) // 2
        canvas = torch.full((3, self.size, self.size), self.fill, dtype=torch.uint8)
        canvas[:, top : top + height, left : left + width] = pixels
        return canvas

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture within the square."""
        if self.mode == "squash":
            return self.size, self.size
        scale = self.size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _by_pillow(self, data: bytes | PIL.Image.Image) -> Tensor:
        with _one_line_errors():
            image = _loaded(_checked(data))
            if _is_large(image) and not _is_plain(image):
                return planes(self._reduced(image))
            image = _upright(image)
            inner = self._inner(*image.size)
            return planes(image if image.size == inner else image.resize(inner, INTERPOLATION[self.interpolation]))

    def _by_torch(self, data: bytes | PIL.Image.Image) -> Tensor:
        pixels = _ordinary(data)
        if pixels is not None:
            return self._resized(pixels)
        with _one_line_errors():
            image = _checked(data)
            pixels = _by_torchvision(image, data)
            if pixels is None and _is_large(image):
                return planes(self._reduced(_loaded(image)))
            return self._resized(_array(_upright(_loaded(image))) if pixels is None else pixels)

    def _resized(self, pixels: Tensor) -> Tensor:
        """[3, H, W] → [3, h, w] within the square."""
        height, width = pixels.shape[1:]
        inner = self._inner(width, height)
        if (width, height) == inner:
            return pixels
        return F.interpolate(pixels[None], inner[::-1], mode=self.interpolation, antialias=True)[0]

    def _reduced(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """A large picture within the square: turned upright when it is small."""
        width, height = image.size
        orientation = _orientation(image)
        inner = self._inner(height, width)[::-1] if orientation >= LYING else self._inner(width, height)
        factors = max(1, width // (GAP * inner[0])), max(1, height // (GAP * inner[1]))
        box = (0, 0, width / factors[0], height / factors[1])  # the last means are those of narrower boxes
        small = _in_strips(image, factors).resize(inner, INTERPOLATION[self.interpolation], box)
        return _turned(small, orientation)


def planes(image: PIL.Image.Image) -> Tensor:
    """An RGB picture → uint8 [3, H, W], one channel after the other in memory."""
    joined = bytearray().join(image.tobytes("raw", band) for band in "RGB")  # half the time of transposing an array
    return torch.frombuffer(joined, dtype=torch.uint8).reshape(3, image.height, image.width)


def to_png(image: PIL.Image.Image) -> bytes:
    """PNG bytes, packed for speed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
