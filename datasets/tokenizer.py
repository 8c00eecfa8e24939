"""The byte-level BPE tokenizer, trained on the run's own data and saved with it (Hugging Face `tokenizers`).

Every byte has a token, so any text comes back whole and nothing is unknown. Digits stand alone, with the space before them: a
number's value is in its digits, not in which of them were frequent together (as in Llama and PaLM). No normalisation and no
added spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from datasets.source import BadSample, Source
from vlm.processor import SPECIAL_TOKENS
from vlm.sample import Text

BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most `vocab_size` tokens, special ones included; the same for the same texts.

    Raises `ValueError` where `vocab_size` has no room for all bytes and the special tokens.
    """
    least = BYTES + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise ValueError(f"vocabulary of {vocab_size} tokens: it must hold {least}, all bytes and the special tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def first_texts(source: Source, documents: int) -> Iterator[str]:
    """The texts of a source's first documents; bad ones are counted when they are drawn."""
    for index in range(min(documents, len(source))):
        try:
            texts = [s.text for s in source.get(0, index).segments if isinstance(s, Text)]
            "".join(texts).encode()
        except (BadSample, UnicodeEncodeError):  # the latter for half surrogates, which are no text
            continue
        yield from texts
