"""AMBER (Wang et al., 2023): hallucinations in descriptions (generative) and in yes/no questions (discriminative). The
repository's `data/query/query_{split}.json` (rows `id, image, query`), `data/annotations.json` (rows `id, type, truth,
hallu`), `data/relation.json` (object → associated words) and `data/safe_words.txt`, with the pictures in `image/`.

A row of the generative part carries its objects with their associated words and the vocabulary of all, so that records can
be scored again by themselves. A response of the discriminative part must be exactly "Yes" or "No", and the instruction says
so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.tasks import layout, rows
from eval.tasks.base import Item, Task
from eval.tasks.rows import Row
from vlm.files import read_json, read_text

KINDS = ("existence", "attribute", "relation")
QUERIES = {"all": "all", "generative": "generative", "discriminative": "discriminative"} | {
    kind: f"discriminative-{kind}" for kind in KINDS
}


def load(data: Path, split: str) -> Iterator[Item]:
    queries, known = (_file(data, name) for name in (f"query/query_{QUERIES[split]}.json", "annotations.json"))
    relations = rows.as_row(str(path := _file(data, "relation.json")), read_json(path))
    related = {word: list(relations.texts(word)) for word in relations.data}
    safe = read_text(_file(data, "safe_words.txt")).split()
    vocabulary = sorted({word for key, words in related.items() for word in (key, *words)})
    told = {row.word("id"): row for row in rows.json_list(known)}
    pictures = layout.folder(data, "image", "images")

    def items() -> Iterator[tuple[Row, Item]]:
        for row in rows.json_list(queries, pictures):
            if (key := row.word("id")) not in told:
                raise row.error(f"{known.name} has no annotation of {key[:80]!r}")
            yield row, _item(row, told[key], related, {"vocabulary": vocabulary, "safe_words": safe})

    return rows.distinct(items())


def _file(data: Path, name: str) -> Path:
    return layout.file(data, f"data/{name}", name)


def _item(row: Row, told: Row, related: dict[str, list[str]], words: dict[str, list[str]]) -> Item:
    kind, image = told.text("type"), row.picture("image")
    key, query = row.word("id"), row.text("query")
    if kind == "generative":
        objects = {name: {word: related.get(word, []) for word in told.texts(name)} for name in ("truth", "hallu")}
        return Item(key, query, (), (image,), group=image.name, tags={"type": kind}, options={**objects, **words})
    answer = told.text("truth").strip().lower()
    if answer not in ("yes", "no"):
        raise told.error(f"`truth` of a question is yes or no, not {answer[:80]!r}")
    instruction = 'Answer with "Yes" or "No" alone.'
    return Item(key, query, (answer.capitalize(),), (image,), group=image.name, tags={"type": kind}, instruction=instruction)


TASK = Task(
    "amber", load, "amber:exact", tuple(QUERIES), max_new_tokens=256, parser="text",
    about="hallucination in descriptions and in yes/no questions",
    layout="data/query/query_*.json, data/annotations.json, data/relation.json, data/safe_words.txt and image/",
    download="AMBER from https://github.com/junyangwang0410/AMBER, and its pictures from the link there",
    sizes={"all": 15220, "generative": 1004, "discriminative": 14216, "existence": 4924, "attribute": 7628, "relation": 1664},
)  # fmt: skip
