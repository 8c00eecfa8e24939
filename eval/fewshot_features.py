"""Features of pictures for RICES: the mean of an encoder's patch tokens, of length 1. Each picture is encoded once.

Any encoder will do: that of our model under test, or one of a library by name. A cache in `folder`
(`features-ENCODER.safetensors`, rows found by a digest of the picture's bytes) is of one encoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from datasets.quality.pictures import picture_digest
from encoders import Encoder, EncoderConfig, build_encoder
from eval.models.own import device_of, fingerprint, inference
from eval.tasks import Item, digest
from vlm.image import ImageTransform
from vlm.model import VLM
from vlm.processor import Processor

Encode = Callable[[Sequence[bytes]], NDArray[np.float32]]  # pictures → [N, D]
BATCH = 32
MAX_BYTES = 4 << 30  # of a cache


class Features:
    """`pooled(item)` → [D]. `fingerprint` names the encoder, `folder` is where the cache is kept."""

    def __init__(self, encode: Encode, fingerprint: str, folder: Path | None = None) -> None:
        self.encode, self.fingerprint, self.folder = encode, fingerprint, folder
        self._rows: dict[bytes, NDArray[np.float32]] = _read(_path(folder, fingerprint), fingerprint) if folder else {}
        self._new = False

    def pooled(self, item: Item) -> NDArray[np.float32]:
        """The mean of an item's pictures, of which it has one at least, of length 1. Raises `ValueError` or `OSError` for a
        picture that cannot be read."""
        pictures = {picture_digest(data): data for data in item.pictures()}
        self._encode({name: data for name, data in pictures.items() if name not in self._rows})
        total = np.sum([self._rows[name] for name in pictures], axis=0)
        return total / max(float(np.linalg.norm(total)), 1e-12)

    def prepare(self, items: Iterable[Item]) -> None:
        """Encode all their pictures in batches, and write the cache. One that cannot be read is left to `pooled` to say so."""
        batch: dict[bytes, bytes] = {}
        for data in _pictures(items):
            if (name := picture_digest(data)) not in self._rows:
                batch[name] = data
            if len(batch) == BATCH:
                self._encode_whole(batch)
                batch = {}
        self._encode_whole(batch)
        self._save()

    def _encode_whole(self, batch: dict[bytes, bytes]) -> None:
        try:
            self._encode(batch)
        except ValueError:
            for name, data in batch.items():
                with contextlib.suppress(ValueError):
                    self._encode({name: data})

    def _encode(self, batch: dict[bytes, bytes]) -> None:
        if not batch:
            return
        rows = self.encode(list(batch.values())).astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        self._rows.update(zip(batch, rows, strict=True))
        self._new = True

    def _save(self) -> None:
        """A reader sees the old file or the new one."""
        if self.folder is None or not self._new:
            return
        names = np.frombuffer(b"".join(self._rows), np.uint8).reshape(len(self._rows), -1)
        data = to_bytes({"names": names, "rows": np.stack(list(self._rows.values()))}, metadata={"encoder": self.fingerprint})
        path = _path(self.folder, self.fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(path)
        self._new = False


def _pictures(items: Iterable[Item]) -> Iterator[bytes]:
    for item in items:
        with contextlib.suppress(ValueError, OSError):
            yield from item.pictures()


def _path(folder: Path, fingerprint: str) -> Path:
    return folder / f"features-{fingerprint}.safetensors"


def _read(path: Path, fingerprint: str) -> dict[bytes, NDArray[np.float32]]:
    """Raises `ValueError` naming the file for what is no cache of this encoder's features."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"features {path} are larger than {MAX_BYTES:,} bytes")
    try:
        with safe_open(path, framework="numpy") as file:
            made_with = (file.metadata() or {}).get("encoder")
            names, rows = file.get_tensor("names"), file.get_tensor("rows")
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"features {path} are not a whole safetensors file: {' '.join(str(error).split())}") from None
    fits = (
        names.dtype == np.uint8 and names.ndim == 2 and rows.dtype == np.float32 and rows.ndim == 2 and len(names) == len(rows)
    )
    if not fits or made_with != fingerprint:
        raise ValueError(
            f"features {path}: want those of encoder {fingerprint}, names [N, 16] and float32 rows [N, D]; remove it"
        )
    return {name.tobytes(): row for name, row in zip(names, rows, strict=True)}


def of_model(model: VLM, processor: Processor, folder: Path | None = None) -> Features:
    """The encoder of a model of ours."""
    return _features(model.encoder, processor.image, folder)


def of_encoder(spec: str, device: torch.device | str = "cpu", folder: Path | None = None) -> Features:
    """`LIBRARY:NAME[:TAG]`, such as `open_clip:ViT-B-32:laion2b_s34b_b79k`. Raises `ValueError` for what there is not."""
    library, _, rest = spec.partition(":")
    name, _, tag = rest.partition(":")
    if library not in ("timm", "open_clip") or not name:
        raise ValueError(f"--support-encoder {spec!r}: want timm:NAME[:TAG], open_clip:NAME[:TAG] or a run of ours")
    config = EncoderConfig(library=library, name=name, pretrained=tag or None)
    encoder = build_encoder(config).to(device).eval()
    return _features(encoder, ImageTransform(encoder.config.image_size, "squash"), folder)


def _features(encoder: Encoder, transform: ImageTransform, folder: Path | None) -> Features:
    """[N, P, D] → [N, D] over the patches alone."""

    def encode(pictures: Sequence[bytes]) -> NDArray[np.float32]:
        images = torch.stack([transform(data) for data in pictures]).to(device_of(encoder))
        with inference(encoder):
            return encoder(images)[:, encoder.num_prefix_tokens :].mean(dim=1).float().cpu().numpy()

    shape = repr(dataclasses.replace(encoder.config, pretrained=None))
    return Features(encode, digest(fingerprint(encoder), shape, repr(transform)), folder)
