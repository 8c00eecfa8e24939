"""Pictures inside parquet files: read when asked for, in any order, a row group at most once."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from eval import tasks
from eval.evaluate import item_hash
from eval.tasks import parquet
from tests.eval.conftest import picture
from tests.eval.tasks.releases import packed, vqav2_packed

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(path: Path, count: int, group: int = 4) -> list[parquet.Row]:
    packed(path, [{"question": f"q{i}", "image": None if i == 5 else i % 250} for i in range(count)], group=group)
    return list(parquet.rows([path]))


def test_pictures_come_in_any_order_and_each_group_is_decoded_once(tmp_path, monkeypatch):
    rows, decoded = table(tmp_path / "a.parquet", 23), []
    batches = parquet._batches
    monkeypatch.setattr(parquet, "_batches", lambda *args: decoded.append(args[2:4]) or batches(*args))
    assert [row.text("question") for row in rows] == [f"q{i}" for i in range(23)]
    assert [row.has("image") for row in rows] == [i != 5 for i in range(23)]
    order = [i for i in range(23) if i != 5] * 2
    random.Random(0).shuffle(order)
    for i in order:
        assert rows[i].picture("image").read_bytes() == picture(i), i
    assert sorted(decoded) == [(group, ["image.bytes"]) for group in range(6)]


def test_reading_rows_touches_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet.Packed, "read", lambda *args: pytest.fail("a picture was read"))
    assert len(table(tmp_path / "a.parquet", 9)) == 9


def test_few_pictures_are_held_at_a_time(tmp_path):
    rows = table(tmp_path / "a.parquet", 200, group=200)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    sizes = [batch.num_rows for batch in parquet._batches(tmp_path, file, 0, ["image.bytes"], parquet.PICTURES)]
    assert max(sizes) <= parquet.PICTURES and rows[199].picture("image").read_bytes() == picture(199)


def test_files_of_a_split_in_order_and_of_no_other(tmp_path):
    for name in ("test-00001-of-00002", "test-00000-of-00002", "testmini", "test", "train-00000-of-00001", "test_x"):
        (tmp_path / f"{name}.parquet").touch()
    found = [path.name for path in parquet.files(tmp_path, "test")]
    assert found == ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet", "test.parquet"]


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"x" * 1000])
def test_what_is_no_parquet_file_is_named(damage, tmp_path):
    (tmp_path / "validation.parquet").write_bytes(damage)
    with pytest.raises(ValueError, match=r"validation\.parquet is no whole parquet file") as error:
        tasks.get("vqav2").items(tmp_path, "val")
    assert "\n" not in str(error.value)


def test_damaged_pages_are_named_when_they_are_read(tmp_path):
    vqav2_packed(tmp_path)
    for path in (tmp_path / "data").iterdir():
        data = bytearray(path.read_bytes())
        data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"validation-00000-of-00002\.parquet"):
        [item.pictures() for item in tasks.get("vqav2").items(tmp_path, "val")]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("question", None, "no `question`"),
        ("question", [3], "`question` is text"),
        ("answers", ["x"], ""),
        ("answers", [[[1]]], "`answers` is a list of texts"),
        ("image", ["a.jpg"], "names no picture in None"),
        ("image", [None], "no `image`"),
        ("image", [b"abc"], "no `image`"),
        ("question_id", [None], "no `question_id`"),
    ],
)
def test_wrong_columns_are_named_with_their_row(column, values, message, tmp_path):
    image = pa.array([{"bytes": picture(1), "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {
        "question": pa.array(["q"]),
        "answers": pa.array([["a"]]),
        "image": image,
        "question_id": pa.array([1]),
        "image_id": pa.array([1]),
    }
    if values is None:
        del columns[column]
    else:
        columns[column] = pa.array(values)
    pq.write_table(pa.table(columns), tmp_path / "validation.parquet")
    if not message:
        assert tasks.get("vqav2").items(tmp_path, "val")[0].references == ("x",)
        return
    with pytest.raises(ValueError, match=rf"validation\.parquet:1: .*{message}"):
        tasks.get("vqav2").items(tmp_path, "val")


def test_a_picture_without_bytes_is_an_item_that_cannot_be_asked(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": "a.jpg"}], kind)
    pq.write_table(
        pa.table({"image": image, "question": ["q"], "answer": ["a"], "type": ["human_test"]}), tmp_path / "test.parquet"
    )
    (item,) = tasks.get("chartqa").items(tmp_path, "test")
    with pytest.raises(OSError, match=r"`image` holds no picture.*test\.parquet:1"):
        item.pictures()
    assert item_hash(item)


def test_without_pyarrow_the_install_line_is_shown(tmp_path, monkeypatch):
    vqav2_packed(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r'pip install "flamingo-moe\[parquet\]"'):
        tasks.get("vqav2").items(tmp_path, "val")


def test_a_long_text_that_a_dictionary_repeats_is_decoded_in_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_BATCH", 1 << 20)
    pq.write_table(pa.table({"question": ["x" * 100_000] * 256}), tmp_path / "a.parquet")
    file = pq.ParquetFile(tmp_path / "a.parquet")
    sizes = [batch.num_rows for batch in parquet._batches(tmp_path, file, 0, ["question"], parquet.BATCH)]
    assert sum(sizes) == 256 and max(sizes) <= 10 and len(list(parquet.rows([tmp_path / "a.parquet"]))) == 256
