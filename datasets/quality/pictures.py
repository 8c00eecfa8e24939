"""Pictures that look the same: a perceptual hash of 256 bits, and its index.

The hash is of pHash's kind: which of the low frequencies of the grey picture's cosine transform are clearly positive (by
more than JPEG's noise, so that smooth pictures have steady bits too). The usual 8 x 8 frequencies (64 bits) cannot tell charts
apart: of 600 of ChartQA's, 214 pairs of different ones lie within 4 bits. So there are two parts. The 16 x 16 lowest (`COARSE`,
256 bits) find what may be alike: 16 bands of 16 bits meet for every pair up to 15 bits apart. The rest of the 32 x 32 lowest
(`FINE`, 768 bits) then tells, for instance, two bar charts of one template apart, whose bars are nearly the same.

A JPEG of quality 30, half or double the size move a chart by at most 25 fine bits. Of 4,549 pictures of ChartQA and OpenCQA, 4
are taken for another with other bytes; of ChartQA's 1.9 million pairs 12 agree in the coarse part, 2 in both. Between the two
sets it finds 38 charts that they share, at other sizes and palettes. A crop is found up to about 0.5 % of each side: past that
it is another picture to a chart's reader as well.
"""

from __future__ import annotations

import hashlib

import numpy as np
import PIL.Image
import scipy.fft
from numpy.typing import NDArray

from datasets.quality.near import BandIndex
from vlm.image import open_image
from vlm.sample import Image, Picture, Sample, Video

SIDE = 128  # pixels
COARSE, FINE = 16 * 16 // 16, (32 * 32 - 16 * 16) // 16  # words of 16 bits
NOISE = 4.0  # grey levels: an orthonormal transform keeps a pixel's noise as it is
MAX_DISTANCE = COARSE - 1  # coarse bits apart up to which every pair is found
MAX_FINE = 60  # fine bits apart of pictures that look the same
CACHE = 100_000  # hashes, about 35 MB: one picture often serves many questions

PictureHash = NDArray[np.uint16]  # [COARSE + FINE]


def perceptual_hash(data: Picture) -> PictureHash:
    """Raises `ValueError` for what is no whole picture."""
    grey = open_image(data).convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    bits = scipy.fft.dctn(np.asarray(grey, dtype=np.float32), norm="ortho")[:32, :32] > NOISE
    ordered = (bits[:16, :16], bits[:16, 16:], bits[16:])
    return np.packbits(np.concatenate([part.ravel() for part in ordered])).view(np.uint16)


class PictureHashes:
    """Perceptual hashes, each file's computed once as long as the cache holds it."""

    def __init__(self) -> None:
        self._cache: dict[bytes, PictureHash] = {}

    def __call__(self, data: bytes) -> PictureHash:
        """Raises `ValueError` for what is no whole picture."""
        digest = picture_digest(data)
        if digest not in self._cache:
            if len(self._cache) >= CACHE:
                self._cache.clear()
            self._cache[digest] = perceptual_hash(data)
        return self._cache[digest]


class PictureIndex:
    """Pictures numbered as they come, found again by their looks."""

    def __init__(self, max_distance: int) -> None:
        """`max_distance` in coarse bits. Raises `ValueError` past what the index is sure to find."""
        if not 0 <= max_distance <= MAX_DISTANCE:
            raise ValueError(f"picture_distance is {max_distance}: want 0 to {MAX_DISTANCE} bits, of {16 * COARSE}")
        self.max_distance = max_distance
        self._index = BandIndex(COARSE + FINE, COARSE, np.uint16, keyed=COARSE)

    @property
    def nbytes(self) -> int:
        return self._index.nbytes

    def __len__(self) -> int:
        return len(self._index)

    def find(self, hashed: PictureHash) -> list[tuple[int, int]]:
        """(distance in bits of 1,024, number) of those that look like it, the nearest first."""
        numbers, others = self._index.candidates(hashed)
        differ = np.bitwise_count(others ^ hashed)
        coarse, fine = (part.sum(axis=1, dtype=np.int64) for part in (differ[:, :COARSE], differ[:, COARSE:]))
        near = (coarse <= self.max_distance) & (fine <= MAX_FINE)
        return sorted(zip((coarse + fine)[near].tolist(), numbers[near].tolist(), strict=True))

    def add(self, hashed: PictureHash) -> int:
        """Returns its number."""
        return self._index.add(hashed)

    def number(self, hashed: PictureHash) -> int:
        """The number of the nearest that looks like it; a new one where there is none."""
        found = self.find(hashed)
        return found[0][1] if found else self.add(hashed)


def picture_digest(data: bytes) -> bytes:
    """16 bytes of the file."""
    return hashlib.blake2b(data, digest_size=16).digest()


def frames(sample: Sample) -> list[bytes]:
    """The files of all pictures and clips of a sample from a shard, in order."""
    found: list = []
    for segment in sample.segments:
        match segment:
            case Image(data):
                found.append(data)
            case Video(clip):
                found.extend(clip)
    return found
