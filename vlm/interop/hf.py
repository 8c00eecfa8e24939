"""Hugging Face model directories in and out: `load_hf` reads one, `export` writes one that transformers loads.

Which family a directory is of, its config.json says. Text families are read by vlm/interop/hf_text.py, Idefics by
vlm/interop/idefics.py. transformers itself is not needed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.decoder import TextDecoder
from vlm.files import MAX_SHARD_BYTES, Weights, read_json
from vlm.interop import idefics, idefics_export
from vlm.interop.hf_families import FAMILIES
from vlm.interop.hf_text import export_text, load_text
from vlm.interop.text import TextFiles
from vlm.model import VLM

IDEFICS = "idefics"


def load_hf(
    directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> TextDecoder | VLM:
    """The model of a directory, in eval mode, in `dtype`; `None`: in that of its embedding table as stored.

    Raises `ValueError` in one line for a family that is not supported, a value in config.json that we have no arithmetic for,
    a missing, damaged or pickled file, and weights that do not fit.
    """
    directory = Path(directory)
    raw = read_json(directory / "config.json")
    model_type = raw.get("model_type")
    if model_type == IDEFICS:
        return idefics.load(directory, raw, Weights(directory), device, dtype)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join((*FAMILIES, IDEFICS))
        raise ValueError(f"{directory / 'config.json'}: model_type {model_type!r:.60} is not supported; there are {known}")
    return load_text(directory, raw, torch.device(device), dtype)


def export(
    model: TextDecoder | VLM,
    directory: str | Path,
    family: str | None = None,
    *,
    text: TextFiles | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    context_length: int | None = None,
    additional_vocab_size: int = 0,
) -> None:
    """Write config.json, weights in the precision that they have, and the text side, for transformers to load.

    `family` is one of load_hf's; `None` takes the first that can say what the model is. `context_length` becomes the config's
    max_position_embeddings where rotary scaling does not fix it. `additional_vocab_size` is of Idefics: so many of its tables'
    last rows are written as the additional ones. Raises `ValueError` naming what the family cannot say.
    """
    if isinstance(model, TextDecoder):
        export_text(model, Path(directory), family, text, max_shard_bytes, context_length)
        return
    if family not in (None, IDEFICS):
        raise ValueError(f"a model with vision cannot be written as {family}; give its decoder alone, or the family {IDEFICS}")
    idefics_export.export(model, Path(directory), text, max_shard_bytes, context_length, additional_vocab_size)
