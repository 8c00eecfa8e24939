"""The tokenizer and chat template that a GGUF file carries.

Two kinds of vocabulary are read: `gpt2`, byte-level BPE, whose way of cutting text into words goes by a name (the file does not
say what it means, llama.cpp does), and `llama`, SentencePiece BPE, whose merges follow from the scores of its pieces. Control
tokens become special, user-defined ones stay whole in text. A kind or name that is not known is refused: words cut another way
are other tokens, without any sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vlm.interop.gguf_file import GGUFFile
from vlm.interop.text import TextFiles

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # of tokenizer.ggml.token_type
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
MAX_PIECE = 1024  # characters; the longest published ones are 128 blanks

GPT2 = ("gpt-2", "default")
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")  # GPT-2's words, each digit alone
LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3")
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = ("qwen2", "deepseek-r1-qwen")
QWEN2_WORDS = LLAMA3_WORDS.replace("{1,3}", "")


def read_gguf_text(path: str | Path) -> TextFiles:
    """Raises `ValueError` in one line for a file without a vocabulary, and for a kind of tokenizer that is not read."""
    file = GGUFFile(path)
    fields = {key.removeprefix("tokenizer."): value for key, value in file.fields.items()}
    tokens, types, kind = fields.get("ggml.tokens"), fields.get("ggml.token_type"), fields.get("ggml.model")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{path} has a tokenizer of the kind {str(kind)[:40]!r}; {' and '.join(_KINDS)} are read")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or len(set(tokens)) < len(tokens):
        raise ValueError(f"{path}: tokenizer.ggml.tokens is not a list of different texts")
    types = types if types is not None else [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ValueError(f"{path}: tokenizer.ggml.token_type is not a number for each of {len(tokens)} tokens")
    try:
        tokenizer = _KINDS[kind](fields, tokens, types)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path}: its vocabulary makes no tokenizer: {' '.join(str(error).split())}") from None
    tokenizer.add_special_tokens([_whole(t) for t, k in zip(tokens, types, strict=True) if k in (CONTROL, UNKNOWN)])
    tokenizer.add_tokens([_whole(t) for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED])
    roles = {role: _token(fields.get(f"ggml.{name}_token_id"), tokens) for role, name in ROLES.items()}
    begins = fields.get("ggml.add_bos_token", kind == "llama" or fields.get("ggml.pre") in LLAMA3)
    template = fields.get("chat_template")
    template = template if isinstance(template, str) else None
    return TextFiles(tokenizer, template, **roles, add_bos=begins is True and roles["bos"] is not None)


def _whole(token: str) -> AddedToken:
    return AddedToken(token, normalized=False)


def _token(index: object, tokens: list[str]) -> str | None:
    return tokens[index] if type(index) is int and 0 <= index < len(tokens) else None


def _byte_level(fields: dict, tokens: list[str], types: list[int]) -> Tokenizer:
    merges = fields.get("ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges):
        raise ValueError("tokenizer.ggml.merges is not a list of pairs")
    name = fields.get("ggml.pre", "default")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=name in LLAMA3))
    tokenizer.pre_tokenizer = _words(name)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _words(name: object) -> pre_tokenizers.PreTokenizer:
    """How text is cut before merges, by the name that llama.cpp gives it."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in GPT2:
        return gpt2
    if name in SINGLE_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name not in LLAMA3 + QWEN2:
        known = ", ".join(GPT2 + SINGLE_DIGITS + LLAMA3 + QWEN2)
        raise ValueError(f"tokenizer.ggml.pre {str(name)[:40]!r} is not a way to cut words that is known here: {known}")
    pattern = Regex(LLAMA3_WORDS if name in LLAMA3 else QWEN2_WORDS)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_only])


def _sentencepiece(fields: dict, tokens: list[str], types: list[int]) -> Tokenizer:
    scores = fields.get("ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores is not a number for each of {len(tokens)} tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pieces = [i for i, kind in enumerate(types) if kind in (NORMAL, USER_DEFINED, UNUSED) and len(tokens[i]) <= MAX_PIECE]
    pieces.sort(key=lambda i: (-scores[i], i))
    merges = [pair for i in pieces for pair in _pairs(tokens[i], vocabulary)]
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    bpe = models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types)
    tokenizer = Tokenizer(bpe)
    prefix = fields.get("ggml.add_space_prefix", True) is True
    blank = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blank]) if prefix else blank
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer


def _pairs(piece: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """All ways to join two pieces into this one."""
    cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
    return ((left, right) for left, right in cuts if left in vocabulary and right in vocabulary)


_KINDS = {"gpt2": _byte_level, "llama": _sentencepiece}
