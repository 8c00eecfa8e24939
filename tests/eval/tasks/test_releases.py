"""Every task over every layout that people have: what is read, and that whatever does not fit is one line naming the file."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval import tasks
from eval.tasks import Item, mmmu, scienceqa
from eval.tasks.rows import Row
from tests.eval.tasks.releases import RELEASES

pytest.importorskip("pyarrow")
CASES = [pytest.param(*release, id=release[1].__name__) for release in RELEASES]
JSON = [case for case in CASES if not case.id.endswith("_packed") and case.id not in ("mmmu", "mme")]


def items(name: str, data: Path, split: str) -> list[Item]:
    return tasks.get(name).items(data, split)


@pytest.mark.parametrize(("name", "write", "split", "count"), CASES)
def test_a_release_is_read(name, write, split, count, tmp_path):
    write(tmp_path)
    task, found = tasks.get(name), items(name, tmp_path, split)
    assert len(found) == count and len({item.id for item in found}) == count
    assert all(item.group and set(task.by) <= set(item.tags) for item in found)
    for item in found:
        assert item.question and all(data[:4] == b"\x89PNG" for data in item.pictures())
        assert not item.choices or item.references[0] in (*item.choices, *item.choices.values())
        assert bool(item.references) != (item.tags.get("type") == "generative")
    assert task.items(tmp_path, split, limit=1) == found[:1] or name in ("mmmu",) or "packed" in write.__name__


@pytest.mark.parametrize(("name", "write", "split", "count"), CASES)
def test_missing_data_says_what_to_download_where(name, write, split, count, tmp_path):
    task = tasks.get(name)
    source = task.download.split()[0] if task.download else "give"
    for data in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=rf"{source}.*--data") as error:
            task.items(data, split)
        assert "\n" not in str(error.value)


GARBAGE = ["", "[", "3", '"x"', "[[]]", "[3]", '{"a": 1}', "[{}]", '[{"id": 1}]', "[" * 100_000, "\xff\xfe", "{" * 3, "null"]


@pytest.mark.parametrize(("name", "write", "split", "count"), JSON)
def test_files_that_are_something_else_are_named(name, write, split, count, tmp_path):
    write(tmp_path / "good")
    for file in sorted((tmp_path / "good").rglob("*.json*")):
        place = tmp_path / "bad" / file.relative_to(tmp_path / "good")
        for text in GARBAGE:
            shutil.rmtree(tmp_path / "bad", ignore_errors=True)
            shutil.copytree(tmp_path / "good", tmp_path / "bad")
            place.write_bytes(text.encode("latin-1"))
            refused(name, tmp_path / "bad", split)


VALUES: list[Any] = [
    None,
    True,
    3,
    -1,
    10**30,
    1.5,
    "",
    "x",
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    [],
    [None],
    {},
    {"a": [1]},
]


def variants(value: Any) -> Iterator[Any]:
    """The value with one thing in it replaced, or doubled."""
    if isinstance(value, dict):
        for key in value:
            for other in [*VALUES, *variants(value[key])]:
                yield {**value, key: other}
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, list) and value:
        for other in [*VALUES, *variants(value[0])]:
            yield [other, *value[1:]]
        yield [value[0], *value]


@pytest.mark.parametrize(("name", "write", "split", "count"), JSON)
def test_rows_that_do_not_fit_are_named(name, write, split, count, tmp_path):
    write(tmp_path)
    for file in sorted(tmp_path.rglob("*.json*")):
        text = file.read_text()
        as_lines = file.suffix == ".jsonl" or text.endswith("\n")
        whole = [json.loads(line) for line in text.splitlines()] if as_lines else json.loads(text)
        for variant in list(variants(copy.deepcopy(whole))):
            file.write_text("".join(json.dumps(row) + "\n" for row in variant) if as_lines else json.dumps(variant))
            refused(name, tmp_path, split)
        file.write_text(text)


def refused(name: str, data: Path, split: str) -> None:
    """It is read after all (a field that does not matter), or refused in one line; pictures outside are never read."""
    try:
        found = items(name, data, split)
    except ValueError as error:
        assert str(data) in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        return
    for item in found:
        try:
            assert all(data[:4] == b"\x89PNG" for data in item.pictures())
        except OSError as error:
            assert str(data) in f"{error.filename} {error.strerror}"


@pytest.mark.parametrize(("name", "write", "split", "count"), [case for case in CASES if not case.id.endswith("_packed")])
def test_missing_and_linked_pictures_are_named_with_their_row(name, write, split, count, tmp_path):
    write(tmp_path / "data")
    (tmp_path / "outside.png").write_bytes(b"secret")
    if name == "mmmu":
        return
    for picture in [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".png", ".jpg")]:
        picture.unlink()
        picture.symlink_to(tmp_path / "outside.png")
    try:
        found = items(name, tmp_path / "data", split)
    except ValueError as error:
        assert name == "mme" and "0001.txt:1: no picture" in str(error)
        return
    for item in found:
        if item.images:
            with pytest.raises(OSError, match=r"[.\w]+:\w+: no such picture"):
                item.pictures()


def test_a_folder_of_pictures_may_be_linked_in(tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "pope")
    write(tmp_path / "pope")
    (tmp_path / "pope/val2014").rename(tmp_path / "coco")
    (tmp_path / "pope/val2014").symlink_to(tmp_path / "coco")
    assert items("pope", tmp_path / "pope", "random")[0].pictures()


def test_an_id_that_comes_twice_is_named_with_both_rows(tmp_path):
    row = {"question": "q", "answers": "a", "id": "x"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"test\.jsonl:3: the id 'x' occurs twice, first at .*test\.jsonl:1"):
        items("custom", tmp_path, "test")


def test_empty_answers_of_a_hidden_split_are_none_and_an_empty_one_among_ten_stays(tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "textvqa")
    write(tmp_path)
    for answers, expected in (([""] * 10, ()), (["a"] * 9 + [""], ("a",) * 9 + ("",))):
        path = tmp_path / "TextVQA_0.5.1_val.json"
        whole = json.loads(path.read_text())
        whole["data"][0]["answers"] = answers
        path.write_text(json.dumps(whole))
        assert items("textvqa", tmp_path, "val")[0].references == expected


def test_annotations_may_come_in_another_order_and_must_be_there(tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "vqav2")
    write(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    whole = json.loads(path.read_text())
    whole["annotations"][1]["answer_type"] = "number"  # of question 42002
    path.write_text(json.dumps(whole))
    assert [item.tags["answer_type"] for item in items("vqav2", tmp_path, "val")] == ["other", "other", "number"]
    path.write_text(json.dumps({"annotations": whole["annotations"][:2]}))
    with pytest.raises(ValueError, match=r"questions\.json:2: .*annotations\.json has no annotation of question 42001"):
        items("vqav2", tmp_path, "val")


@pytest.mark.parametrize("options", ["[" * 10_000, "__import__('os')", "['a'", "{'a': 1}", "[['a']]", "['a'] * 3"])
def test_mmmu_evaluates_nothing_in_its_lists(options, tmp_path):
    write = next(write for name, write, *_ in RELEASES if name == "mmmu")
    write(tmp_path)
    row = Row("a.parquet:1", {"options": options})
    with pytest.raises(ValueError, match=r"a\.parquet:1: `options` is a list of texts"):
        mmmu.listed(row, "options")


def test_scienceqa_questions_of_conversations_are_taken_apart():
    assert scienceqa.parts("Which?\nA. x\nB. y") == ("", "Which?", {"A": "x", "B": "y"})
    assert scienceqa.parts("Context: N/A\nWhich?\nA. x\nB. y\nz") == ("", "Which?", {"A": "x", "B": "y\nz"})
    assert scienceqa.parts("Context: a\nb\nWhich?\nA. x\nC. y") == ("a\nb", "Which?", {"A": "x\nC. y"})
    assert scienceqa.parts("no choices") == ("", "no choices", {})
    assert len(scienceqa.parts("Q\n" + "\n".join(f"{letter}. x" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))[2]) == 26
