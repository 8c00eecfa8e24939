"""Pictures from anywhere → RGB arrays of one size. Files are hostile: size is checked before a pixel is decoded.

Charts and text are mirrored by flips and cut by crops, so there are neither: an image is letterboxed (aspect kept, padded)
or squashed (aspect lost) to the encoder's size, in either case with the interpolation its weights were trained with. A picture
of the encoder's size stays as it is; where the library squashes too (SigLIP, MobileCLIP), `squash` gives its very pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

# What photographs, scans and web pages hold. Pillow knows more formats, some of which run other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
MAX_PIXELS = 120_000_000  # 100-megapixel photographs pass, decompression bombs do not


def open_image(data: bytes | PIL.Image.Image) -> PIL.Image.Image:
    """Decode to RGB: EXIF rotation applied, transparency over white, first frame of an animation.

    Raises `ValueError` with a one-line reason for anything that is not a whole, reasonably sized picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = data if isinstance(data, PIL.Image.Image) else PIL.Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"image of {image.width}x{image.height} pixels is over the limit of {MAX_PIXELS:,}")
            image.load()
            return _to_rgb(PIL.ImageOps.exif_transpose(image))
    except ValueError:
        raise
    except PIL.UnidentifiedImageError:
        raise ValueError(f"image cannot be decoded: it is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise ValueError(f"image cannot be decoded: {type(error).__name__}: {error}".splitlines()[0]) from None


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32)
        top = 255.0 if image.mode in ("I", "F") and values.max(initial=0) <= 255 else 65535.0
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

    def __call__(self, data: bytes | PIL.Image.Image) -> Tensor:
        image = open_image(data)
        if image.size != (self.size, self.size):
            image = self._resize(image)
        return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))

    def _resize(self, image: PIL.Image.Image) -> PIL.Image.Image:
        resampling = INTERPOLATION[self.interpolation]
        if self.mode == "squash":
            return image.resize((self.size, self.size), resampling)
        scale = self.size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        if width == height:
            return image.resize((width, height), resampling)
        canvas = PIL.Image.new("RGB", (self.size, self.size), (self.fill,) * 3)
        canvas.paste(image.resize((width, height), resampling), ((self.size - width) // 2, (self.size - height) // 2))
        return canvas
