"""A list of unwanted words and phrases, and the share of a text that they make up.

One entry a line, `#` begins a comment. Entries are split into words as texts are, so case and punctuation do not matter; a
phrase is found by the hash of its words, the whole list at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.quality.words import Hashes, matches, ngrams, word_hashes, words
from vlm.files import read_text

DEFAULT = Path(__file__).with_name("unwanted_words.txt")
MAX_BYTES = 16 << 20
MAX_PHRASE = 10  # words


class WordList:
    """Raises `ValueError` for a file that is no text, has no entry or too long a phrase."""

    def __init__(self, path: Path = DEFAULT) -> None:
        by_length: dict[int, list[Hashes]] = {}
        for number, line in enumerate(read_text(path, MAX_BYTES).splitlines(), 1):
            entry = words(line.partition("#")[0])
            if len(entry) > MAX_PHRASE:
                raise ValueError(f"{path}, line {number}: a phrase of {len(entry)} words; at most {MAX_PHRASE} are looked for")
            if entry:
                by_length.setdefault(len(entry), []).append(ngrams(word_hashes(entry), len(entry)))
        if not by_length:
            raise ValueError(f"{path} holds no words")
        self._entries = {n: np.unique(np.concatenate(entries)) for n, entries in by_length.items()}

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def count(self, hashes: Hashes) -> int:
        """Words [words] that are, or are part of, an entry."""
        listed = np.zeros(len(hashes), bool)
        for n, entries in self._entries.items():
            starts = np.flatnonzero(matches(ngrams(hashes, n), entries)[0])
            listed[(starts[:, None] + np.arange(n)).ravel()] = True
        return int(listed.sum())
