"""MME (Fu et al., 2023): fourteen subtasks, two yes/no questions a picture. `MME_Benchmark_release_version/{subtask}/` with
either `images/` and `questions_answers_YN/`, or pictures and texts side by side; a text `{picture}.txt` has a line a
question, then a tab and `Yes` or `No`. Or `test-*.parquet` with `question_id, question, answer, category, image`.

A question says itself that yes or no is wanted. A subtask's score is 100 times accuracy (of questions) and accuracy+ (of
pictures) together; perception and cognition are sums of these, given when all their subtasks are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.convert.common import PICTURE_ENDINGS, Skips, listed
from eval.metrics.mme import SUBTASKS
from eval.tasks import layout, parquet, rows
from eval.tasks.base import Item, MissingError, Task
from eval.tasks.rows import Row

RELEASE = "MME_Benchmark_release_version"
ROOTS = ("", RELEASE, f"{RELEASE}/MME_Benchmark")


def load(data: Path, split: str) -> Iterator[Item]:
    found = _packed(parquet.files(data, "test")) if parquet.files(data, "test") else _folders(data)
    return rows.distinct(found)


def _folders(data: Path) -> Iterator[tuple[Row, Item]]:
    found = ([data / root / name for name in SUBTASKS if (data / root / name).is_dir()] for root in ROOTS)
    homes = next(filter(None, found), None)
    if homes is None:
        raise MissingError(f"no {SUBTASKS[0]}/ or another subtask's folder in {data}")
    for home in homes:
        texts = listed(home, ".txt", Skips(), "questions_answers_YN") or listed(home, ".txt", Skips())
        folder = layout.folder(home, "images", "")
        pictures = {Path(path.name).stem: path.name for path in listed(folder, PICTURE_ENDINGS, Skips())}
        for path in texts:
            for row in rows.tab_lines(path, ("question", "answer"), folder):
                if path.stem not in pictures:
                    raise row.error(f"no picture {path.stem}.jpg or .png in {folder}")
                yield row, _item(row, home.name, path.stem, row.number, pictures[path.stem])


def _packed(paths: list[Path]) -> Iterator[tuple[Row, Item]]:
    seen: dict[str, int] = {}
    for row in parquet.rows(paths):
        name = row.text("question_id")
        seen[name] = seen.get(name, 0) + 1
        subtask = row.text("category")
        yield row, _item(row, subtask, Path(name).stem, str(seen[name]), None)


def _item(row: Row, subtask: str, image: str, number: str, file: str | None) -> Item:
    answer = row.text("answer").strip().lower()
    if subtask not in SUBTASKS or answer not in ("yes", "no"):
        raise row.error(f"a subtask of MME and yes or no are wanted, not {subtask[:80]!r} and {answer[:80]!r}")
    picture = row.file(file) if file else row.picture("image")
    key = f"{subtask}/{image}"
    return Item(f"{key}-{number}", row.text("question"), (answer,), (picture,), group=key, tags={"subtask": subtask})


TASK = Task(
    "mme", load, "mme:official", max_new_tokens=8, parser="raw",
    about="perception and cognition by yes and no, two questions a picture",
    layout=RELEASE + "/{subtask}/ with pictures and texts of questions; or test-*.parquet",
    download="MME from https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation) or "
    "https://huggingface.co/datasets/lmms-lab/MME",
    sizes={"test": 2374},
)  # fmt: skip
