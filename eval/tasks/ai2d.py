"""AI2D (Kembhavi et al., 2016): diagrams of school science with choices. The release has `questions/{image}.png.json` (an
object `imageName, questions`: question → `answerTexts, correctAnswer, questionId, abcLabel`) and `images/`, also below
`ai2d/`; or `test-*.parquet` with `question, options, answer, image`.

The test set is the images that `ai2d_test_ids.csv` lists (it comes with the release's site), `train` all others. Where a
question is about labels that were replaced by letters (`abcLabel`), `abc_images/` has the picture with these; without that
folder it is asked about the plain picture. The parquet file of lmms-lab is the whole test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import Skips, listed
from eval.tasks import layout, parquet, rows
from eval.tasks.base import LETTER, Item, MissingError, Task
from eval.tasks.rows import Row
from vlm.files import read_json, read_text


def load(data: Path, split: str) -> Iterator[Item]:
    if packed := parquet.files(data, split):
        return rows.distinct((row, _packed(row, f"{split}-{i}")) for i, row in enumerate(parquet.rows(packed)))
    root = layout.folder(data, "questions", "ai2d/questions").parent
    return rows.distinct(_questions(root, layout.file(data, "ai2d_test_ids.csv", "ai2d/ai2d_test_ids.csv"), split))


def _questions(root: Path, ids: Path, split: str) -> Iterator[tuple[Row, Item]]:
    test = {line.strip() for line in read_text(ids).splitlines()}
    plain = layout.folder(root, "images")
    lettered = layout.folder(root, "abc_images") if (root / "abc_images").is_dir() else plain
    paths = listed(root, ".json", Skips(), "questions")
    if not paths:
        raise MissingError(f"no questions/*.json in {root}")
    for path in paths:
        if (path.name.split(".")[0] in test) == (split == "test"):
            yield from _of_image(path, plain, lettered)


def _of_image(path: Path, plain: Path, lettered: Path) -> Iterator[tuple[Row, Item]]:
    image = path.name.removesuffix(".json")
    for number, (key, value) in enumerate(rows.as_row(str(path), read_json(path)).row("questions").data.items(), 1):
        row = rows.as_row(f"{path}:{number}", value)
        choices, labels = row.choices("answerTexts"), row.data.get("abcLabel") is True
        seen = Row(row.place, row.data, lettered if labels else plain)
        yield row, Item(
            row.word("questionId"), key, (row.letter("correctAnswer", choices),), (seen.file(image),), choices=choices,
            group=image, tags={"labels": "letters" if labels else "words"},
        )  # fmt: skip


def _packed(row: Row, key: str) -> Item:
    choices, image = row.choices("options"), row.picture("image")
    return Item(
        key, row.text("question"), (row.letter("answer", choices),), (image,), choices=choices, group=image.name,
        tags={"labels": ""},
    )  # fmt: skip


TASK = Task(
    "ai2d", load, "multiple_choice:robust", ("test", "train"), by=("labels",), instruction=LETTER, parser="text",
    about="diagrams of school science, with choices",
    layout="ai2d/questions/, ai2d/images/ and ai2d_test_ids.csv; or test-*.parquet",
    download="AI2D from https://prior.allenai.org/projects/diagram-understanding or https://huggingface.co/datasets/lmms-lab/ai2d",
    sizes={"test": 3088},
)  # fmt: skip
