"""Records survive kills, and are never mixed."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import threading
import time

import pytest

from eval.store import RECORDS, RecordStore, read_records


def record(key: str, **more) -> dict:
    return {"id": key, "input": "d", **more}


def test_a_torn_last_line_is_dropped_and_done_again(tmp_path):
    RecordStore(tmp_path, {"a": 1}).append([record("x"), record("y")])
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes()[:-4])
    store = RecordStore(tmp_path, {"a": 1})
    assert store.done("x", "d") and not store.done("y", "d")
    store.append([record("y", again=True)])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["x", "y"]


def test_other_settings_are_refused_by_name_or_replaced(tmp_path):
    RecordStore(tmp_path, {"cot": "none", "task": "t"}).append([record("x")])
    with pytest.raises(ValueError, match="cot was 'none', now 'single'") as error:
        RecordStore(tmp_path, {"cot": "single", "task": "t"})
    assert "\n" not in str(error.value)
    assert not RecordStore(tmp_path, {"cot": "single", "task": "t"}, replace=True).records
    assert not RecordStore(tmp_path, {"cot": "single", "task": "t"}).records


def test_another_input_under_the_same_id_is_not_done(tmp_path):
    RecordStore(tmp_path, {}).append([record("x")])
    assert not RecordStore(tmp_path, {}).done("x", "other image bytes")


def test_shards_join_in_the_items_order_whoever_finishes_last(tmp_path):
    keys = [f"q{i}" for i in range(7)]
    stores = [RecordStore(tmp_path, {}, shard=(i, 3)) for i in range(3)]
    for i in (2, 0, 1):
        stores[i].append([record(key) for key in keys[i::3]])
        found = stores[i].finish(dict.fromkeys(keys, "d"))
    assert [r["id"] for r in found] == keys
    assert [json.loads(line)["id"] for line in (tmp_path / RECORDS).read_text().splitlines()] == keys
    assert RecordStore(tmp_path, {}).finish(dict.fromkeys(keys, "d")) == found


def test_a_stale_record_of_a_shard_does_not_hide_the_fresh_one(tmp_path):
    RecordStore(tmp_path, {}, shard=(0, 2)).append([record("x", output="stale")])
    fresh = {"id": "x", "input": "new", "output": "fresh"}
    RecordStore(tmp_path, {}).append([fresh])
    store = RecordStore(tmp_path, {})
    assert store.done("x", "new") and store.finish({"x": "new"}) == [fresh]
    assert [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()] == [fresh]
    assert store.finish({"x": "newer"}) == []


def test_a_shorter_run_keeps_the_records_of_a_longer_one(tmp_path):
    store = RecordStore(tmp_path, {})
    store.append([record(key) for key in "cba"])
    for keys in ("ab", "a", "b"):
        assert [r["id"] for r in RecordStore(tmp_path, {}).finish(dict.fromkeys(keys, "d"))] == list(keys)
        assert [r["id"] for r in read_records(tmp_path / RECORDS)] == list(keys)
        assert all(RecordStore(tmp_path, {}).done(key, "d") for key in "abc")
    assert [r["id"] for r in RecordStore(tmp_path, {}).finish(dict.fromkeys("abc", "d"))] == list("abc")
    assert [r["id"] for r in read_records(tmp_path / RECORDS)] == list("abc")


@pytest.mark.parametrize("line", ["[1]\n", "{}\n", "\x00\x00\n", "{\n"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    RecordStore(tmp_path, {}).append([record("x")])
    with open(tmp_path / RECORDS, "a") as file:
        file.write(line + json.dumps(record("y")) + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl:2: not a record"):
        RecordStore(tmp_path, {})


def test_a_rank_goes_on_when_the_first_has_put_the_records_in_order(tmp_path):
    RecordStore(tmp_path, {}).append([record(key) for key in "cba"])
    first, second = (RecordStore(tmp_path, {}, ranks=(rank, 2)) for rank in range(2))
    first.append([record("d", output="a much longer one")])
    assert len(first.finish(dict.fromkeys("dabc", "d"))) == 4
    second.refresh()
    assert all(second.done(key, "d") for key in "abcd")


def test_ranks_above_0_keep_no_texts(tmp_path):
    store = RecordStore(tmp_path, {}, ranks=(1, 2))
    store.append([record("a", output="long " * 100)])
    RecordStore(tmp_path, {}, ranks=(0, 2)).append([record("b", output="long " * 100)])
    store.refresh()
    assert store.done("a", "d") and store.done("b", "d") and "long" not in repr(store.records)
    assert "long" in (tmp_path / "records.rank-1-of-2.jsonl").read_text()


def test_only_the_first_rank_replaces_and_the_others_wait_for_it(tmp_path):
    RecordStore(tmp_path, {"a": 1}).append([record("old")])
    stores: dict[int, RecordStore] = {}
    more = {"replace": True, "patience": 20}
    waiting = threading.Thread(target=lambda: stores.update({1: RecordStore(tmp_path, {"a": 2}, ranks=(1, 2), **more)}))
    waiting.start()
    time.sleep(0.3)
    assert not stores and (tmp_path / RECORDS).exists()
    first = RecordStore(tmp_path, {"a": 2}, ranks=(0, 2), **more)
    first.append([record("new")])
    waiting.join(20)
    stores[1].refresh()
    assert stores[1].done("new", "d") and not stores[1].done("old", "d")
    with pytest.raises(ValueError, match="a was 2, now 3"):
        RecordStore(tmp_path, {"a": 3}, ranks=(1, 2), replace=True, patience=0)


def test_a_success_takes_the_place_of_an_error_and_only_this_runs_errors_count(tmp_path):
    keys = {("x", "d"), ("y", "d")}
    RecordStore(tmp_path, {}, ranks=(1, 2)).append([record(key, error="no picture") for key in "xyz"])
    store = RecordStore(tmp_path, {})
    assert store.new_errors(keys) == [] and not store.done("x", "d")
    store.append([record("x"), record("y", error="still none"), record("z", error="of no item of this run")])
    assert [error["error"] for error in store.new_errors(keys)] == ["still none"]
    assert store.done("x", "d") and store.done("y", "d")
    assert ("x", "d") not in RecordStore(tmp_path, {}).errors  # whichever file is read first


def write(directory, shard, ranks, answer) -> None:
    try:
        store = RecordStore(directory, {}, shard, ranks)
    except ValueError as error:
        answer.put(str(error))
    else:
        answer.put(store.path.name)


@pytest.mark.parametrize(
    ("shard", "ranks", "other", "refused"),
    [
        ((0, 1), (0, 1), ((0, 1), (0, 1)), True),
        ((0, 1), (0, 1), ((0, 2), (0, 1)), True),
        ((0, 1), (1, 2), ((0, 1), (0, 1)), True),
        ((0, 1), (1, 2), ((0, 1), (1, 2)), True),
        ((0, 1), (1, 2), ((0, 1), (0, 2)), False),
        ((0, 2), (0, 1), ((1, 2), (0, 1)), False),
        ((0, 2), (1, 2), ((1, 2), (0, 2)), False),
    ],
)
def test_two_commands_do_not_write_into_one_directory(tmp_path, shard, ranks, other, refused):
    store = RecordStore(tmp_path, {}, shard, ranks)
    store.path.write_text('{"torn')  # as it is being written
    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    process = fork.Process(target=write, args=(tmp_path, *other, answer))
    process.start()
    assert ("another command is writing here" in answer.get(timeout=20)) == refused
    process.join(20)
    assert store.path.read_text() == '{"torn'


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(OSError, match=r"cannot be locked .*No locks available") as error:
        RecordStore(tmp_path, {})
    assert str(tmp_path) in error.value.filename
