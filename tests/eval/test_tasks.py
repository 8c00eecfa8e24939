"""Tasks read official layouts, and say what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eval import metrics, parsing, tasks
from eval.tasks import charts
from tests.eval.conftest import picture

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))


def chartqa(folder: Path, rows: list, part: str = "human") -> Path:
    (folder / "val" / "png").mkdir(parents=True, exist_ok=True)
    (folder / "val" / "png" / "a.png").write_bytes(picture(3))
    (folder / "val" / f"val_{part}.json").write_text(json.dumps(rows))
    return folder


ROW = {"imgname": "a.png", "query": "How many?", "label": "3"}


def test_chartqa_reads_the_parts_that_are_there(tmp_path):
    chartqa(tmp_path, [ROW, ROW])
    assert [i.tags["part"] for i in tasks.get("chartqa").items(tmp_path, "val")] == ["human", "human"]
    chartqa(tmp_path, [ROW], part="augmented")
    items = tasks.get("chartqa").items(tmp_path, "val")
    assert len({i.id for i in items}) == 3 and items[2].tags["part"] == "augmented"
    assert items[0].pictures() == (picture(3),) and items[0].references == ("3",)


def test_chartqa_reads_labels_that_are_numbers(tmp_path):
    chartqa(tmp_path, [{**ROW, "label": 3}])
    assert tasks.get("chartqa").items(tmp_path, "val")[0].references == ("3",)


def test_chartqa_pictures_stay_inside_the_folder(tmp_path):
    chartqa(tmp_path, [ROW, {**ROW, "imgname": "../../../etc/passwd"}])
    with pytest.raises(ValueError, match=r"val_human\.json:2: '\.\./\.\./\.\./etc/passwd' names no picture in .*png"):
        tasks.get("chartqa").items(tmp_path, "val")


@pytest.mark.parametrize("rows", [[{"imgname": "a.png"}], {"a": 1}, [3], ["x"]])
def test_chartqa_with_other_rows_is_named(tmp_path, rows):
    chartqa(tmp_path, rows)
    with pytest.raises(ValueError, match=r"val_human\.json(:1: (no `query`|a row is a JSON object)| is no JSON list)"):
        tasks.get("chartqa").items(tmp_path, "val")


def test_missing_data_says_what_to_download_where(tmp_path):
    for data in (None, tmp_path):
        with pytest.raises(ValueError, match=r"https://huggingface\.co/datasets/ahmed-masry/ChartQA .*--data"):
            tasks.get("chartqa").items(data, None)


@pytest.mark.skipif(not (DATA / "chartqa").is_dir(), reason="real ChartQA not found: set VLM_DATA")
def test_real_chartqa():
    items = tasks.get("chartqa").items(DATA / "chartqa", "test")
    assert len(items) == 1245 and sum(i.tags["part"] == "human" for i in items) == 616
    assert all(item.pictures() for item in items)
    assert len(tasks.get("chartqa").items(DATA / "chartqa", "val", limit=10)) == 10


@pytest.mark.parametrize(("name", "split"), [("chartsqa", None), ("chartqa", "vall")])
def test_misspelt_names(name, split, tmp_path):
    with pytest.raises(ValueError, match="did you mean"):
        tasks.get(name).items(tmp_path, split)


def test_custom_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(3))
    rows = [{"image": "a.png", "question": "q", "answers": "x", "kind": "k"}, {"question": "q", "answers": ["x", "y"], "id": 7}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = tasks.get("custom").items(tmp_path, None)
    assert first.pictures() == (picture(3),) and first.tags == {"kind": "k"} and first.id == "1"
    assert second.images == () and second.references == ("x", "y") and second.id == "7"


@pytest.mark.parametrize(
    "row",
    ['{"image": "../x.png", "question": "q", "answers": "a"}', '{"image": "/etc/passwd", "question": "q", "answers": "a"}', "{",
     '{"question": "q"}', '{"question": 3, "answers": "a"}', '{"question": "q", "answers": []}',
     '{"question": "q", "answers": [1]}', "[]"],
)  # fmt: skip
def test_custom_rows_that_do_not_fit_are_named(tmp_path, row):
    (tmp_path / "test.jsonl").write_text(row)
    with pytest.raises(ValueError, match=r"test\.jsonl:1: "):
        tasks.get("custom").items(tmp_path, None)


def test_charts_are_the_same_for_any_count_and_differ_by_seed():
    few, more = charts.items(0, 5), charts.items(0, 9)
    assert more[:5] == few
    assert {i.id for i in charts.items(1, 5)}.isdisjoint(i.id for i in few)


def test_table_items_ask_the_same_without_a_picture():
    for seen, told in zip(charts.items(0, 6), charts.table_items(0, 6), strict=True):
        assert told.question == seen.question and told.images == () and told.context


@pytest.mark.skipif(not (DATA / "scienceqa").is_dir(), reason="real ScienceQA not found: set VLM_DATA")
def test_real_scienceqa():
    items = tasks.get("scienceqa").items(DATA / "scienceqa", "test")
    assert len(items) == 2116 and sum(bool(item.images) for item in items) == 1016
    assert all(item.references[0] in item.choices and item.question for item in items)
    assert all(item.pictures() for item in items if item.images)


@pytest.mark.skipif(not (DATA / "opencqa").is_dir(), reason="real OpenCQA not found: set VLM_DATA")
def test_real_opencqa():
    for split, count in (("test", 1159), ("val", 1158), ("train", 3000)):
        assert len(tasks.get("opencqa").items(DATA / "opencqa", split)) == count


@pytest.mark.skipif(not (DATA / "chartqa").is_dir(), reason="real ChartQA not found: set VLM_DATA")
def test_examples_that_reason_have_chartqas_rationales():
    assert all(item.rationale for item in tasks.get("chartqa").items(DATA / "chartqa", "train"))


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_names_what_there_is(name):
    task = tasks.get(name)
    assert task.name == name and all(metrics.get(label).label.startswith(label) for label in task.metrics)
    assert parsing.get(task.parser) and set(task.sizes) <= set(task.splits) and len(task.about) > 10
    assert task.max_new_tokens > 0 and (not task.mean_of or task.mean_of in task.by)


def test_every_task_has_its_line():
    lines = tasks.table().splitlines()
    assert [line.split()[0] for line in lines] == list(tasks.names())
    assert all(tasks.get(line.split()[0]).about in line for line in lines)


@pytest.mark.parametrize("name", tasks.names())
def test_the_page_of_tasks_says_what_the_declaration_says(name):
    task = tasks.get(name)
    page = Path("docs/tasks.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    sizes = [f"{task.sizes[split]:,}" for split in task.splits if split in task.sizes]
    links = [word.rstrip(",)") for word in task.download.split() if word.startswith("http")]
    for text in (*task.metrics, *task.splits, *sizes, *links, task.about):
        assert text in row, text


@pytest.mark.parametrize(
    ("name", "output", "score"),
    [("pope", "", "yes"), ("pope", "no\nyes", "yes"), ("pope", " no", "no")],
)
def test_official_scorers_read_what_was_written(name, output, score):
    task = tasks.get(name)
    assert metrics.get(task.metric).score(parsing.get(task.parser)(output), ("no",), {}) == score
