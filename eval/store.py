"""Records on disk: appended and fsynced, resumed by id, never mixed between two settings.

A directory holds `settings.json` (what made the records: checkpoint, task, prompt), one `records*.jsonl` for each shard
and, when all is there, `records.jsonl` with every record in the items' order, whatever the batch size, interruptions and
number of processes were. A line that a kill left unfinished is dropped; its sample is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

RECORDS = "records.jsonl"


class RecordStore:
    """Records of one evaluation arm under `directory`.

    `settings` is a flat JSON-able mapping; records made with others are refused (`ValueError` naming the keys that
    differ), or dropped with `replace`. `shard` (i, n) keeps processes apart that write at the same time.
    """

    def __init__(self, directory: Path, settings: dict, shard: tuple[int, int] = (0, 1), *, replace: bool = False) -> None:
        self.directory, self.settings = Path(directory), json.loads(json.dumps(settings))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._check_settings(replace)
        index, count = shard
        self.path = self.directory / (RECORDS if count == 1 else f"records.shard-{index}-of-{count}.jsonl")
        _drop_torn_line(self.path)
        self.records = self._load()

    def _load(self) -> dict[tuple[str, str], dict]:
        return {(r["id"], r["input"]): r for path in sorted(self.directory.glob("records*.jsonl")) for r in read_records(path)}

    def _check_settings(self, replace: bool) -> None:
        path = self.directory / "settings.json"
        if not path.exists():
            write_json(path, self.settings)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ValueError(f"{path}: not JSON; remove {self.directory} to start again") from None
        differ = sorted(key for key in before.keys() | self.settings if before.get(key) != self.settings.get(key))
        if differ and replace:
            for records in self.directory.glob("records*.jsonl"):
                records.unlink()
            write_json(path, self.settings)
        elif differ:
            changes = ", ".join(f"{key} was {before.get(key)!r}, now {self.settings.get(key)!r}" for key in differ)
            raise ValueError(f"{self.directory} holds records made with other settings ({changes}): choose another --out")

    def done(self, key: str, digest: str) -> bool:
        """Is there a record of this id made from the same input (`digest` covers prompt and image bytes)?"""
        return (key, digest) in self.records

    def append(self, records: Sequence[dict]) -> None:
        """Write records (with `id` and `input`) through to the disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        self.records.update(((record["id"], record["input"]), record) for record in records)

    def finish(self, inputs: Mapping[str, str]) -> list[dict]:
        """The records of `inputs` (id: digest), other shards' too, in that order, and none that was made from another input.

        When none is missing `records.jsonl` takes this order.
        """
        self.records = self._load()
        found = [self.records[item] for item in inputs.items() if item in self.records]
        if len(found) == len(inputs):
            others = [record for (key, _), record in self.records.items() if key not in inputs]  # of an earlier, longer run
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in found + others)
            write_atomically(self.directory / RECORDS, "".join(lines))
        return found


def write_json(path: Path, value: object) -> None:
    """JSON, indented, replaced atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a restart after a kill, sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _drop_torn_line(path: Path) -> None:
    """Cut the file after its last newline."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def read_records(path: Path) -> list[dict]:
    """Whole lines only: another process may be writing its last one."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            row["id"], row["input"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}:{number}: not a record; remove the line, its sample is then done again") from None
        rows.append(row)
    return rows
