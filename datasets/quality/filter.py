"""One decision a sample: kept, or dropped for the first reason that holds. Cheap checks come first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from datasets.quality.classifier import Classifier
from datasets.quality.overlap import EvalIndex, Kind
from datasets.quality.pictures import MAX_DISTANCE, PictureHashes, PictureIndex, frames, picture_digest
from datasets.quality.reading import SHINGLE, Reading, Signals, read
from datasets.quality.rules import JUDGED_WORDS, Rules, language
from datasets.quality.seen import Content, Seen
from datasets.quality.stream import Placed
from datasets.quality.wordlist import WordList
from vlm.sample import Sample, Text

Pictures = Literal["with-text", "alone"]


@dataclass(frozen=True, slots=True)
class Settings:
    """All thresholds. Shares, probabilities and similarities go from 0 to 1. `ValueError` names one outside its range."""

    rules: Rules = field(default_factory=Rules)
    sure_probability: float = 0.9  # unwanted by the classifier alone
    sure_share: float = 0.05  # unwanted by the word list alone
    both_probability: float = 0.5  # unwanted by the two together, each at least this
    both_share: float = 0.005
    similarity: float = 0.5  # Jaccard of three-word shingles, from which two texts are near duplicates
    min_near_words: int = 50  # of a text that may be a near duplicate
    picture_distance: int = MAX_DISTANCE  # coarse bits of 256
    pictures: Pictures = "with-text"  # alone: a sample that shows only pictures kept before goes, whatever its text
    against: tuple[Kind, ...] = ("picture", "text")  # what overlap with an evaluation set drops a sample

    def __post_init__(self) -> None:
        for name in ("sure_probability", "sure_share", "both_probability", "both_share", "similarity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: want 0 to 1")
        if self.min_near_words < SHINGLE:
            raise ValueError(f"min_near_words is {self.min_near_words}: want at least {SHINGLE}, the words of a shingle")
        if self.pictures not in get_args(Pictures):
            raise ValueError(f"pictures is {self.pictures!r}: want {' or '.join(get_args(Pictures))}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is empty for a sample that is kept; `of` is what it repeats: a kept sample, or one of an evaluation set."""

    signals: Signals
    words: int
    reason: str = ""
    detail: str = ""
    of: str | None = None


class Filter:
    """Judges samples in the order they come, and remembers those it keeps."""

    def __init__(
        self,
        settings: Settings,
        words: WordList,
        classifier: Classifier | None = None,
        evaluation: EvalIndex | None = None,
        hashes: PictureHashes | None = None,
    ) -> None:
        self.settings, self.words, self.classifier, self.evaluation = settings, words, classifier, evaluation
        self._hashes = hashes or PictureHashes()
        self._pictures = PictureIndex(settings.picture_distance)
        self._kept_pictures: set[int] = set()
        self.seen = Seen(settings.similarity, settings.min_near_words)

    @property
    def index_bytes(self) -> int:
        """Memory of what was kept; nothing else grows with the data."""
        return self.seen.nbytes + self._pictures.nbytes

    @property
    def num_pictures(self) -> int:
        """Different ones, by their looks."""
        return len(self._pictures)

    def judge(self, placed: Placed) -> Verdict:
        text = "\n".join(s.text for s in placed.sample.segments if isinstance(s, Text))
        reading = read(text, self.words, self.classifier)
        reason, detail, of = self._drop(placed, text, reading) or ("", "", None)
        return Verdict(reading.signals, reading.counts.words, reason, detail, of)

    def _drop(self, placed: Placed, text: str, reading: Reading) -> tuple[str, str, str | None] | None:
        """(reason, detail, of what) to drop a sample for; `None` keeps it."""
        files = frames(placed.sample)
        if broken := reading.counts.broken(self.settings.rules, len(files)) or self._foreign(text, reading):
            return *broken, None
        if unwanted := self._unwanted(reading.signals):
            return "unwanted", unwanted, None
        try:
            hashes = [self._hashes(file) for file in files]
        except ValueError as error:
            return "picture broken", str(error), None
        if self.evaluation and (overlap := self.evaluation.overlap(placed.sample, hashes).first(self.settings.against)):
            return f"in an evaluation set, {overlap[0]}", "", overlap[1]
        numbers = [self._pictures.number(hashed) for hashed in hashes]
        if self.settings.pictures == "alone" and numbers and self._kept_pictures.issuperset(numbers):
            return "pictures kept before", f"{len(numbers)} pictures", None
        content = Content(reading, _layout(placed.sample, numbers), b"".join(map(picture_digest, files)))
        if repeat := self.seen.find(content):
            return repeat.reason, repeat.detail, repeat.of
        self.seen.add(content, placed.shard, placed.number)
        if self.settings.pictures == "alone":
            self._kept_pictures.update(numbers)
        return None

    def _foreign(self, text: str, reading: Reading) -> tuple[str, str] | None:
        wanted = self.settings.rules.languages
        if not wanted or reading.counts.words < JUDGED_WORDS:
            return None
        found = language(text)
        return None if found in wanted else ("language", f"{found}, want {', '.join(wanted)}")

    def _unwanted(self, signals: Signals) -> str:
        """Which of the judges say so; empty when they let it pass."""
        probability, share, limits = signals.probability, signals.listed_share, self.settings
        by_classifier = probability is not None and probability >= limits.sure_probability
        by_list = share > 0 and share >= limits.sure_share
        likely = probability is not None and probability >= limits.both_probability
        both = likely and share > 0 and share >= limits.both_share
        if both or (by_classifier and by_list):
            return "classifier and word list"
        return "classifier" if by_classifier else "word list" if by_list else ""


def _layout(sample: Sample, numbers: Sequence[int]) -> bytes:
    """Where between the texts pictures stand, and which they show."""
    kinds = re.sub("T+", "T", "".join(type(segment).__name__[0] for segment in sample.segments))
    return f"{kinds} {' '.join(map(str, numbers))}".encode()
