"""Ordinary JPEGs by torchvision: to Pillow's pixels, sooner. What is ordinary is read from the header here.

Pillow takes as long to open a small picture as to tokenize its caption. Most files of a data set hold a JFIF header, tables and
one frame of three channels, and nothing that turns, converts or names their pixels otherwise; of these a scan over the segments
says all that Pillow would. What it does not know it leaves to Pillow, which also judges what torchvision refuses.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import torch
from torch import Tensor

_START, _JFIF, _COMMENT, _RESTART = b"\xff\xd8", 0xFFE0, 0xFFFE, 0xFFDD
_QUANTIZATION, _HUFFMAN, _FRAME, _SCAN = 0xFFDB, 0xFFC4, 0xFFC0, 0xFFDA
_SKIPPED = (_HUFFMAN, _COMMENT, _RESTART)
_TABLE = 65  # bytes of a quantization table of 8 bits


def ordinary_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a baseline JPEG of three channels without EXIF, profile or Adobe's marker; `None` for any other."""
    if not data.startswith(_START):
        return None
    place, size = len(_START), None
    with suppress(struct.error):  # the header has no end
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker == _SCAN:
                return size
            if marker == _FRAME and length == 17 and size is None:
                bits, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
                size = (width, height) if bits == 8 and channels == 3 and height and width else None
                if size is None:
                    return None
            elif not _says_nothing(marker, length, data, place + 4):
                return None
            place += 2 + length
    return None


def _says_nothing(marker: int, length: int, data: bytes, place: int) -> bool:
    """Is this segment whole, and do the pixels' size, colours and direction not depend on it?"""
    if marker == _QUANTIZATION:
        return length % _TABLE == 2 and not any(number >> 4 for number in data[place : place + length - 2 : _TABLE])
    return marker in _SKIPPED or (marker == _JFIF and length >= 16 and data.startswith(b"JFIF\0", place))


def pixels(data: bytes) -> Tensor | None:
    """uint8 [3, H, W] whose channels lie side by side in memory; `None` for what torchvision refuses."""
    from torchvision.io import decode_jpeg  # brings torch's compiler: seconds

    with suppress(RuntimeError):
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return None
