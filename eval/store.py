"""Records on disk: appended and fsynced, resumed by id, never mixed between two settings.

A directory holds `settings.json` (what made the records: model, task, arm), one `records*.jsonl` for each process that wrote
and, when all is there, `records.jsonl` with every record in the items' order, whatever the batch size, interruptions and
number of processes were; records of an earlier, longer run then lie in `records.others.jsonl`. A line that a kill left
unfinished is dropped; its sample is done again. A record with an `error` says why an item could not be asked: the next run
tries again. A lock keeps two commands out of one directory; the shards and ranks of one run share it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from eval.work import POLL, lock

RECORDS = "records.jsonl"
OTHERS = "records.others.jsonl"  # of an earlier, longer run
Key = tuple[str, str]  # id, digest of the input


class RecordStore:
    """Records of one evaluation arm under `directory`.

    `settings` is a flat JSON-able mapping; records made with others are refused (`ValueError` naming the keys that
    differ), or dropped with `replace`: by rank 0, for which the others wait `patience` seconds. `shard` (i, n) and `ranks`
    (i, n) keep processes apart that write at the same time; ranks above 0 keep no more of a record than that it is there.
    Raises `ValueError` while another command writes there.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict,
        shard: tuple[int, int] = (0, 1),
        ranks: tuple[int, int] = (0, 1),
        *,
        replace: bool = False,
        patience: float = 600.0,
    ) -> None:
        self.directory, self.settings = Path(directory), json.loads(json.dumps(settings))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock(shard, ranks)
        if replace and ranks[0]:
            self._wait_for_settings(patience)
        self._check_settings(replace and not ranks[0])
        parts = [f"{name}-{i}-of-{n}" for name, (i, n) in (("shard", shard), ("rank", ranks)) if n > 1]
        self.path = self.directory / ".".join(["records", *parts, "jsonl"])
        _drop_torn_line(self.path)
        self.records: dict[Key, dict] = {}
        self.errors: dict[Key, dict] = {}
        self._whole = ranks[0] == 0
        self._read: dict[Path, int] = {}  # bytes of each file that are in `records` already
        self._read_on(self.directory.glob("records*.jsonl"))
        self._before = dict(self.errors)  # of earlier runs

    def _lock(self, shard: tuple[int, int], ranks: tuple[int, int]) -> None:
        """Byte 0 is a whole run's, or shared by processes of one; each of these has a byte of its own, too."""
        path = self.directory / ".writing"
        self._locked = open(path, "ab+")  # noqa: SIM115 as long as the store lives
        shared = shard[1] * ranks[1] > 1
        taken = [lock(self._locked.fileno(), path, 0, shared=shared)]
        taken += [lock(self._locked.fileno(), path, 1 + shard[0] * ranks[1] + ranks[0])]
        if not all(taken):
            raise ValueError(f"{self.directory}: another command is writing here: wait for its end, or choose another --out")

    def refresh(self) -> None:
        """Take in what other processes wrote. `records.jsonl` is no such file: who puts it in order has it from the others."""
        self._read_on(path for path in self.directory.glob("records.*.jsonl") if path.name != OTHERS)

    def _read_on(self, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            rows, self._read[path] = read_lines(path, self._read.get(path, 0))
            self._take_in(rows)

    def _take_in(self, rows: Sequence[dict]) -> None:
        """A record takes the place of an error of the same item."""
        for row in rows:
            at = row["id"], row["input"]
            if "error" not in row:
                self.records[at] = row if self._whole else {}
                self.errors.pop(at, None)
            elif at not in self.records:
                self.errors[at] = row

    def _wait_for_settings(self, patience: float) -> None:
        """Until rank 0 has dropped what was made with others."""
        end = time.monotonic() + patience
        while self._settings_before() != self.settings and time.monotonic() < end:
            time.sleep(POLL)

    def _settings_before(self) -> dict | None:
        """`None`: there are none yet."""
        path = self.directory / "settings.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise ValueError(f"{path}: not JSON; remove {self.directory} to start again")
        return before

    def _check_settings(self, replace: bool) -> None:
        path, before = self.directory / "settings.json", self._settings_before()
        if before is None:
            write_json(path, self.settings)
            return
        differ = sorted(key for key in before.keys() | self.settings if before.get(key) != self.settings.get(key))
        if differ and replace:
            for records in self.directory.glob("records*.jsonl"):
                records.unlink()
            write_json(path, self.settings)
        elif differ:
            changes = ", ".join(f"{key} was {before.get(key)!r}, now {self.settings.get(key)!r}" for key in differ)
            raise ValueError(
                f"{self.directory} holds records made with other settings ({changes}): choose another --out, or --replace"
            )

    def done(self, key: str, digest: str) -> bool:
        """Is there a record of this id made from the same input (`digest` covers prompt and image bytes)? An error counts
        when it is of this run."""
        at = (key, digest)
        return at in self.records or self._is_new_error(at)

    def _is_new_error(self, at: Key) -> bool:
        return at in self.errors and self.errors[at] is not self._before.get(at)

    def new_errors(self, inputs: Set[Key]) -> list[dict]:
        """Those of `inputs` that could not be asked in this run."""
        return [self.errors[at] for at in self.errors.keys() & inputs if self._is_new_error(at)]

    def append(self, records: Sequence[dict]) -> None:
        """Write records (with `id` and `input`) through to the disk."""
        if not records:
            return
        with open(self.path, "a", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(map(_line, records))
            file.flush()
            os.fsync(file.fileno())
            self._read[self.path] = file.tell()
        self._take_in(records)

    def found(self, inputs: Mapping[str, str]) -> list[dict]:
        """The records of `inputs` (id: digest), other processes' too, in that order, none made from another input."""
        self.refresh()
        rows = (self.records.get(item) or self.errors.get(item) for item in inputs.items())
        return [row for row in rows if row is not None]

    def finish(self, inputs: Mapping[str, str]) -> list[dict]:
        """As `found`; when none is missing these alone are `records.jsonl`, in this order, with what the caller added."""
        found = self.found(inputs)
        if len(found) == len(inputs):
            others = [record for (key, _), record in self.records.items() if key not in inputs]
            if others or (self.directory / OTHERS).exists():
                self._write(RECORDS, [*found, *others])  # a kill between any two of these loses nothing
                self._write(OTHERS, others)
            self._write(RECORDS, found)
        return found

    def _write(self, name: str, records: Sequence[dict]) -> None:
        write_atomically(self.directory / name, "".join(map(_line, records)))


def _line(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """JSON, indented, replaced atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a restart after a kill, sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8", errors="surrogatepass") as file:
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
    """Raises `ValueError` naming file and line for what is no record."""
    return read_lines(path)[0]


def read_lines(path: Path, start: int = 0) -> tuple[list[dict], int]:
    """Records from byte `start` on, and where the next one will begin. Whole lines only: another process may be writing its
    last one."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    *lines, torn = data.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not (isinstance(row["id"], str) and isinstance(row["input"], str)):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            place = f"{path}:{number}" if not start else f"{path}: byte {start} on, line {number}"
            raise ValueError(f"{place}: not a record; remove the line, its sample is then done again") from None
        rows.append(row)
    return rows, start + len(data) - len(torn)
