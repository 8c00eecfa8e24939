"""What of a support split is in the evaluation, and so must not be shown as an example.

An example gives an evaluated item away when one of its pictures is there (the same file, or one that looks the same:
datasets/quality/pictures.py), or, where it has none, when its question with all that is given beside is the same, word by word.
The same question about another picture is no leak: templates repeat. Pictures as small as 64 pixels of one style look alike to
a perceptual hash without being the same; it errs on the side of leaving an example out.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets.quality.pictures import MAX_DISTANCE, PictureHashes, PictureIndex, picture_digest
from datasets.quality.words import words
from eval.tasks import Item, digest

SAME_FILE, SAME_LOOK, SAME_QUESTION, BROKEN = (
    "with a picture that is evaluated", "with a picture that looks like one", "with a question that is evaluated",
    "with a picture that cannot be read",
)  # fmt: skip


class Leaks:
    """Pictures and questions of an evaluation. A picture of it that cannot be read gives nothing away."""

    def __init__(self, evaluated: Sequence[Item]) -> None:
        self._hashes, self._looks = PictureHashes(), PictureIndex(MAX_DISTANCE)
        self._files: set[bytes] = set()
        self._questions = {_question(item) for item in evaluated if not item.images}
        for item in evaluated:
            try:
                self._add(item.pictures())
            except (ValueError, OSError):
                continue  # the run itself says so

    def _add(self, pictures: Sequence[bytes]) -> None:
        for data in pictures:
            if (name := picture_digest(data)) not in self._files:
                self._files.add(name)
                self._looks.add(self._hashes(data))

    def reason(self, example: Item) -> str | None:
        """Why an example cannot be shown; `None` where it can."""
        try:
            pictures = example.pictures()
            if any(picture_digest(data) in self._files for data in pictures):
                return SAME_FILE
            if any(self._looks.find(self._hashes(data)) for data in pictures):
                return SAME_LOOK
        except (ValueError, OSError):
            return BROKEN
        return SAME_QUESTION if not pictures and _question(example) in self._questions else None


def _question(item: Item) -> str:
    """Normalised: case, width, blanks and punctuation aside."""
    given = (item.context, item.hint, item.question, *(item.choices or {}).values())
    return digest(*(" ".join(words(text)) for text in given))
