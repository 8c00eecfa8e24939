"""Weights of others in and out: Hugging Face directories, GGUF files, and dense models made into mixtures of experts."""

from vlm.interop.gguf import load_gguf
from vlm.interop.gguf_text import read_gguf_text
from vlm.interop.hf import export, load_hf
from vlm.interop.open import load
from vlm.interop.text import TextFiles, read_text_files
from vlm.interop.upcycle import upcycle

__all__ = ["TextFiles", "export", "load", "load_gguf", "load_hf", "read_gguf_text", "read_text_files", "upcycle"]
