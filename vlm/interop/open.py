"""A published model and what reads and writes its text, in one call."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm.decoder import TextDecoder
from vlm.interop.gguf import load_gguf
from vlm.interop.gguf_text import read_gguf_text
from vlm.interop.hf import load_hf
from vlm.interop.idefics import AROUND
from vlm.interop.text import TextFiles, read_text_files
from vlm.load import build_processor
from vlm.model import VLM
from vlm.processor import IMAGE, Processor


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    tokenizer: str | Path | None = None,
) -> tuple[TextDecoder | VLM, Processor]:
    """A Hugging Face directory or a GGUF file → model in eval mode, and its processor, as `vlm.load` gives them.

    `dtype=None` keeps the stored type; `tokenizer` is a Hugging Face directory whose tokenizer replaces the source's own.
    Raises `ValueError` in one line as `load_hf` and `load_gguf` do, and for a source that does not say what ends a text.
    """
    path = Path(path)
    read_text, read_model = (read_text_files, load_hf) if path.is_dir() else (read_gguf_text, load_gguf)
    text = read_text(path) if tokenizer is None else read_text_files(tokenizer)
    model = read_model(path, device, dtype)
    return model, make_processor(model, text, path)


def make_processor(model: TextDecoder | VLM, text: TextFiles, source: str | Path) -> Processor:
    """The processor of a model with that text side; `source` is named in messages. Raises `ValueError`."""
    if text.eos is None:
        raise ValueError(f"{source} does not say which token ends a text (eos)")
    begins = text.add_bos or isinstance(model, VLM)  # Idefics' processor writes bos itself, whatever the tokenizer does
    special = {"bos": text.bos if begins else None, "eos": text.eos, "pad": text.pad or text.eos, "medium": IMAGE}
    if text.bos is not None and not begins:
        special["template_bos"] = text.bos
    if isinstance(model, VLM) and text.tokenizer.token_to_id(AROUND) is not None:
        special["around"] = AROUND
    processor = build_processor(model.config, text.tokenizer, special, text.chat_template)
    rows = model.decoder.config.vocab_size
    if processor.vocab_size > rows:
        raise ValueError(f"{source} has a tokenizer of {processor.vocab_size} tokens and a model of {rows}")
    return processor
