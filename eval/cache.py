"""Answers kept between evaluations, in one SQLite file that several processes share.

The key covers the model, every word of the prompt, its pictures' bytes (a control with other pictures under the same id is
never served the answers of the first) and all options. What is written is a function of these: requests at a temperature
carry their seed. What a server refused or left empty is not kept: the next run asks again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import UnionType

from eval.hashing import request_hash
from eval.models import Completion, Model, Request, UnusableError
from vlm.sample import Sample

FILE = "completions-1.sqlite"  # the number: of the format
BUSY = 60.0  # seconds to wait for another process's write


class Cached:
    """A model that is asked each request once. Raises `UnusableError` naming the file where it is no cache."""

    def __init__(self, model: Model, directory: Path) -> None:
        self.model, self.path = model, Path(directory) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("CREATE TABLE IF NOT EXISTS completions (key TEXT PRIMARY KEY, texts TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from None

    def close(self) -> None:
        self.connection.close()

    def fingerprint(self) -> str:
        return self.model.fingerprint()

    def length(self, sample: Sample) -> int:
        return self.model.length(sample)

    def context_length(self) -> int | None:
        return self.model.context_length()

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        keys = [request_hash(self.model.fingerprint(), request) for request in requests]
        found = {key: texts for key in set(keys) if (texts := self._get(key)) is not None}
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in found}
        written = dict(zip(new, self.model.complete(list(new.values())), strict=True)) if new else {}
        self._put(written)
        found |= written
        return [found[key] for key in keys]

    def _get(self, key: str) -> list[Completion] | None:
        try:
            row = self.connection.execute("SELECT texts FROM completions WHERE key = ?", (key,)).fetchone()
            return None if row is None else _completions(json.loads(row[0]))
        except (sqlite3.DatabaseError, ValueError, TypeError, RecursionError) as error:
            raise self._broken(error) from None

    def _put(self, written: dict[str, list[Completion]]) -> None:
        kept = {key: texts for key, texts in written.items() if all(map(_is_answer, texts))}
        rows = [(key, json.dumps([asdict(text) for text in texts])) for key, texts in kept.items()]
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?)", rows)
            self.connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> ValueError:
        return UnusableError(f"{self.path}: not a cache that can be used ({error}); remove it or choose another --cache")


def _is_answer(text: Completion) -> bool:
    """A model that tells its tokens has written nothing on purpose; of a server that cannot be known."""
    return text.finish != "refused" and bool(text.text or text.tokens)


def _completions(found: object) -> list[Completion]:
    if not (isinstance(found, list) and found):
        raise TypeError("an entry without a text")
    return [_completion(**text) for text in found]


def _completion(text: str, finish: str, tokens: list[int], logprobs: list[float] | None) -> Completion:
    if not (isinstance(text, str) and isinstance(finish, str)):
        raise TypeError(f"a text that is {text!r}"[:80])
    if not (_all(tokens, int) and (logprobs is None or _all(logprobs, float | int))):
        raise TypeError("tokens or logprobs that are no numbers")
    return Completion(text, finish, tuple(tokens), None if logprobs is None else tuple(logprobs))


def _all(values: object, kind: type | UnionType) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
