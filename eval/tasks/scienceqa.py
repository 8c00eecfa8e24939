"""ScienceQA (Lu et al., 2022): multiple-choice questions of school science, half of them with a picture. One of

- `problems.json` (id → `question, choices, answer, hint, image, lecture, solution, split, subject, grade, …`) with
  `pid_splits.json` where it is there, and pictures as `{split}/{id}/image.png`, also below `images/`;
- `{split}-*.parquet` with the same fields;
- `{split}.json`, conversation rows (`id, image, conversations`) of the same text, pictures as `{split}/{id}/image.png`: these
  know neither subject nor grade, so that the papers' columns (NAT, SOC, …, in `scienceqa` of the summary) are left out.

The hint is given, as in the papers (QCM); lecture and solution are the rationale of examples. The answer is the letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.convert.json_stream import object_items
from eval.metrics.base import LETTERS
from eval.tasks import layout, parquet, rows
from eval.tasks.base import LETTER, Item, Task
from eval.tasks.rows import Row

ABOUT = ("subject", "topic", "category", "skill", "grade")


def load(data: Path, split: str) -> Iterator[Item]:
    if packed := parquet.files(data, {"val": "validation"}.get(split, split)):
        return rows.distinct((row, _problem(row, f"{split}-{i}", split)) for i, row in enumerate(parquet.rows(packed)))
    path = layout.file(data, "problems.json", f"{split}.json")
    return rows.distinct(_problems(data, path, split) if path.name == "problems.json" else _talks(data, path, split))


def _problems(data: Path, path: Path, split: str) -> Iterator[tuple[Row, Item]]:
    listed = layout.found(data, "pid_splits.json")
    lists = dict(object_items(listed)) if listed else {}
    if listed and not isinstance(lists.get(split), list):
        raise ValueError(f"{listed}: no list {split!r}")
    chosen = set(map(str, lists[split])) if listed else None
    folders = [name for name in (split, f"images/{split}") if (data / name).is_dir()]
    pictures = layout.folder(data, *folders) if folders else None
    for key, row in rows.json_items(path, pictures):
        if key in chosen if chosen is not None else row.text("split") == split:
            yield row, _problem(row, key, split)


def _problem(row: Row, key: str, split: str) -> Item:
    image = row.data.get("image")
    pictures = () if not image else (row.file(f"{key}/{image}") if isinstance(image, str) else row.picture("image"),)
    choices, hint = row.choices("choices"), row.optional("hint")
    about = {name: row.optional(name) for name in ABOUT}
    return Item(
        key, row.text("question").strip(), (row.letter("answer", choices),), pictures, hint=hint, choices=choices, group=key,
        tags={name: about.pop(name) for name in ("subject", "grade")},
        options={**about, "has_image": bool(pictures), "has_hint": bool(hint)},
        rationale="\n".join(text for name in ("lecture", "solution") if (text := row.optional(name))),
    )  # fmt: skip


def _talks(data: Path, path: Path, split: str) -> Iterator[tuple[Row, Item]]:
    for row in rows.json_list(path, layout.folder(data, split, f"images/{split}")):
        turns = row.rows("conversations")
        if len(turns) < 2:
            raise row.error("`conversations` has no question and answer")
        text, answer, key = turns[0].text("value"), turns[1].text("value").strip(), row.word("id")
        hint, question, choices = parts(text.replace("<image>", "").strip())
        if answer not in choices:
            raise row.error(f"the answer {answer[:80]!r} is none of the choices {''.join(choices) or '(there are none)'}")
        pictures = (row.picture("image"),) if row.has("image") else ()
        options = {"has_image": bool(pictures), "has_hint": bool(hint)}
        tags = {"subject": "", "grade": ""}
        yield row, Item(key, question, (answer,), pictures, hint=hint, choices=choices, group=key, tags=tags, options=options)


def parts(text: str) -> tuple[str, str, dict[str, str]]:
    """`Context: hint`, question, `A. choice`, … as (hint, question, choices); `N/A` is no hint."""
    head, _, last = text.rpartition("\nA. ")
    found = [last] if head else []
    for letter in LETTERS[1:] if found else "":
        *before, last = found[-1].split(f"\n{letter}. ", maxsplit=1)
        if not before:
            break
        found[-1:] = [*before, last]
    head = head or text
    given, _, question = head.strip().rpartition("\n")
    hint = given.removeprefix("Context:").strip() if head.startswith("Context:") else ""
    question = question if hint else head.strip()
    return "" if hint == "N/A" else hint, question, dict(zip(LETTERS, found, strict=False))


TASK = Task(
    "scienceqa", load, "multiple_choice:robust", ("test", "val", "train"), by=("subject", "grade"), instruction=LETTER,
    parser="text", also=("multiple_choice:lmms_scienceqa",), about="school science with choices, half with a picture",
    layout="problems.json and {split}/{id}/image.png; or {split}.json of conversations; or {split}-*.parquet",
    download="ScienceQA from https://github.com/lupantech/ScienceQA or https://huggingface.co/datasets/derek-thomas/ScienceQA",
    sizes={"test": 4241, "val": 4241, "train": 12726},
)  # fmt: skip
