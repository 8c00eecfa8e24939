"""Rows to be scored, as JSON lines: read one at a time, checked for what a metric needs, written back as they were.

A row comes back byte for byte with `"score"` added at its end, so nothing that it holds is lost or rounded; only a row that
has been scored before is written anew. A fault of a row is a `ValueError` that says which one: the caller adds file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eval.metrics.base import REFERENCE_KEYS, Metric, brief, references

LONGEST_LINE = 64 << 20  # bytes: the answers to a whole benchmark in one row are a few megabytes


@dataclass(slots=True)
class Case:
    """A row with its references and the line it came from."""

    row: dict
    text: str
    references: list  # of strings; for a row that holds a whole file, what the metric takes

    @property
    def failed(self) -> bool:
        """Could it not even be asked? So says `eval.run`."""
        return self.row["prediction"] is None and isinstance(self.row.get("error"), str)

    def scored(self, score: object, guessed: bool = False) -> str:
        """The row with its score, as a line."""
        added = {"score": score, "guessed": True} if guessed else {"score": score}
        if self.row.keys().isdisjoint(("score", "guessed")):
            return f"{self.text[:-1]}, {json.dumps(added)[1:-1]}}}\n"
        kept = {key: value for key, value in self.row.items() if key not in ("score", "guessed")}
        return json.dumps({**kept, **added}, allow_nan=False) + "\n"


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not blank. Raises `ValueError` for one longer than `LONGEST_LINE`."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number} is longer than {LONGEST_LINE:,} bytes")
        if not line.isspace():
            yield number, line


def gold_objects(path: Path) -> dict[str, list[str]]:
    """The objects in each picture, by the picture's id. Raises `ValueError` naming the file when it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(names, list) for names in found.values()):
        raise ValueError(f"{path}: a gold-object file is a JSON object, from a picture's id to a list of its objects")
    return found


def case(line: bytes, metric: Metric, gold: Mapping[str, list[str]] | None = None) -> Case:
    """A line as a row that `metric` can score; from `gold` the row's `gold_objects`, by its `image`. Raises `ValueError` saying
    what is wrong with it."""
    try:
        text = line.decode("utf-8").strip()
        row = _decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if type(row) is not dict:
        raise ValueError(f"a row is a JSON object, not {type(row).__name__}")
    if gold is not None:
        if str(row.get("image")) not in gold:
            raise ValueError(f"`image` {brief(row.get('image'))} is not in the gold-object file")
        row["gold_objects"] = gold[str(row["image"])]
    return Case(row, text, _checked(row, metric))


def _checked(row: dict, metric: Metric) -> list:
    """The row's references."""
    if "prediction" not in row:
        raise ValueError("no `prediction`")
    prediction = row["prediction"]
    if isinstance(prediction, list) and metric.parts.score_list:
        if not all(isinstance(text, str) for text in prediction):
            raise ValueError(f"`prediction` is a list of strings, not {brief(prediction)}")
        return next((row[key] for key in REFERENCE_KEYS if row.get(key) is not None), [])
    if not isinstance(prediction, str) and prediction is not None:
        raise ValueError(f"`prediction` is a string, not {brief(prediction)}")
    found = references(row)
    if not found and metric.needs_references:
        there = next((f"`{key}` is {brief(row[key])}" for key in REFERENCE_KEYS if key in row), "there are none")
        raise ValueError(f"{metric.label} needs `references` (also accepted: `label`, `answers`), but {there}")
    choices = row.get("choices")
    if choices is not None and not _are_choices(choices):
        raise ValueError(f"`choices` is a list of strings or a mapping of letters to strings, not {brief(choices)}")
    return found


def _are_choices(choices: object) -> bool:
    texts = list(choices.values()) if isinstance(choices, dict) else choices
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode
