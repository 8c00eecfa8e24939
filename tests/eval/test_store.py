"""Records survive kills, and are never mixed."""

from __future__ import annotations

import json

import pytest

from eval.store import RECORDS, RecordStore


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
    assert [r["id"] for r in store.finish({"a": "d", "b": "d"})] == ["a", "b"]
    assert all(RecordStore(tmp_path, {}).done(key, "d") for key in "abc")


@pytest.mark.parametrize("line", ["[1]\n", "{}\n", "\x00\x00\n", "{\n"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    RecordStore(tmp_path, {}).append([record("x")])
    with open(tmp_path / RECORDS, "a") as file:
        file.write(line + json.dumps(record("y")) + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl:2: not a record"):
        RecordStore(tmp_path, {})
