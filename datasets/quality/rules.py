"""Length, repetition and language: rules over plain counts, in the manner of Gopher's (Rae et al., 2021, table A1).

The defaults drop what is hardly text (tables of numbers, encoded files, one line again and again) and leave prose, source code
and RFCs alone. Pictures carry short texts, so a shortest length holds for text alone. Languages are told by py3langid (140 of
them; its model is part of the package, nothing is downloaded), on the first 4,000 characters. Shares and languages of texts
under 20 words say little: those pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from datasets.quality.words import Chunk

LANGUAGE_CHARACTERS = 4_000
JUDGED_WORDS = 20  # of a text that shares and languages are asked of
REPEATED_LINES = 10  # lines a text needs before repetition says something


@dataclass(frozen=True, slots=True)
class Rules:
    """Shares from 0 to 1; a rule with an empty value is off."""

    min_words: int = 5  # of a sample without pictures
    max_words: int | None = None
    max_word_length: float = 20.0  # mean, in characters; English prose has 5, base64 60
    min_letters: float = 0.4  # letters among all characters that are not white space
    max_repeated: float = 0.5  # characters in lines that stood before, among all
    languages: tuple[str, ...] = ()  # ISO 639-1; any when empty

    def __post_init__(self) -> None:
        if self.min_words < 0:
            raise ValueError(f"min_words is {self.min_words}: want 0 or more")
        if self.max_words is not None and self.max_words < max(1, self.min_words):
            raise ValueError(f"max_words is {self.max_words}: want at least 1 and min_words, {self.min_words}")
        for name in ("min_letters", "max_repeated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: want a share from 0 to 1")
        if not self.max_word_length > 0:
            raise ValueError(f"max_word_length is {self.max_word_length}: want more than 0 characters")
        unknown = set(self.languages) - set(known_languages()) if self.languages else set()
        if unknown:
            raise ValueError(f"language {min(unknown)!r} is unknown: want some of {', '.join(known_languages())}")


class Counts:
    """What the rules ask of a text, counted chunk by chunk; lines are compared within a chunk."""

    def __init__(self) -> None:
        self.words = self.word_characters = self.letters = self.characters = 0
        self.lines = self.line_characters = self.repeated = 0

    def add(self, chunk: Chunk) -> None:
        self.words += len(chunk.words)
        self.word_characters += sum(map(len, chunk.words))
        self.letters += sum(map(str.isalpha, chunk.text))
        self.characters += sum(map(len, chunk.text.split()))
        seen: set[str] = set()
        for line in filter(None, map(str.strip, chunk.text.splitlines())):
            self.lines += 1
            self.line_characters += len(line)
            self.repeated += len(line) * (line in seen)
            seen.add(line)

    def broken(self, rules: Rules, pictures: int) -> tuple[str, str] | None:
        """(reason, detail) of the first rule that the text breaks."""
        if not self.words and not pictures:
            return "empty", "no words and no pictures"
        if self.words < rules.min_words and not pictures:
            return "too short", f"{self.words} words"
        if rules.max_words is not None and self.words > rules.max_words:
            return "too long", f"{self.words} words"
        if self.words < JUDGED_WORDS:
            return None
        checks = (
            ("words too long", self.word_characters / self.words, rules.max_word_length, 1),
            ("few letters", self.letters / max(1, self.characters), rules.min_letters, -1),
            ("repeated lines", self._repeated_share(), rules.max_repeated, 1),
        )
        for reason, value, limit, sign in checks:
            if sign * value > sign * limit:
                return reason, f"{value:.3g}, limit {limit:.3g}"
        return None

    def _repeated_share(self) -> float:
        return self.repeated / self.line_characters if self.lines >= REPEATED_LINES else 0.0


def language(text: str) -> str:
    """ISO 639-1 of the text's most likely language."""
    return _py3langid().classify(text[:LANGUAGE_CHARACTERS].encode("utf-8", "replace"))[0]


def known_languages() -> list[str]:
    """ISO 639-1 codes that can be asked for."""
    return sorted(code for code, _ in _py3langid().rank(""))


def _py3langid():
    try:
        import py3langid
    except ModuleNotFoundError:
        raise ValueError("languages need py3langid: pip install -e '.[quality]'") from None
    return py3langid
