"""Tables in linear form, other pictures of one table, and other data under one question."""

import io
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from datasets.charts.__main__ import main
from datasets.charts.counterfactual import changed_item, clearly_other
from datasets.charts.held_out import held_out_items
from datasets.charts.linear import WRITE_TABLE, linear_table
from datasets.charts.perturb import PERTURBATIONS, perturbation, recoloured
from datasets.charts.profile import make_profile
from datasets.charts.samples import ChartSource
from datasets.charts.spec import make_spec, split_of
from datasets.charts.steps import check_steps
from vlm.sample import Text


@pytest.mark.parametrize("name", ["all", "reading"])
def test_a_linear_table_holds_every_value_of_the_chart(name):
    for index in range(120):
        spec = make_spec(2, index, "train", make_profile(name))
        lines = [line.split(" | ") for line in linear_table(spec).split("\n")]
        assert (lines[0] == ["title", spec.table.title]) == bool(spec.table.title)
        header, *rows = lines[bool(spec.table.title) :]
        assert {len(row) for row in rows} == {len(header)}
        got = {(row[0], head): float(cell) for row in rows for head, cell in zip(header[1:], row[1:], strict=True)}
        unit, table = 10**spec.table.number.decimals, spec.table
        series = table.series or (header[1],)
        wanted = {(c, s): table.values[i][j] / unit for i, s in enumerate(series) for j, c in enumerate(table.categories)}
        assert got == (wanted if spec.type != "scatter" else {(s, c): v for (c, s), v in wanted.items()})


def test_charts_are_asked_for_their_table_only_where_the_profile_says_so():
    def asked(profile):
        source = ChartSource(profile=profile, size=100)
        return sum(WRITE_TABLE in s.text for i in range(100) for s in source.get(0, i).segments if isinstance(s, Text))

    assert asked("all") == 0
    assert 30 < asked({"name": "all", "table_share": 0.5}) < 70
    source = ChartSource(profile={"name": "reading", "table_share": 1.0}, describe_share=0.0, size=5)
    assert source.get(0, 3).segments[-1] == Text(" " + linear_table(source.chart(0, 3)[0]), learn=True)


def pixels(data):
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", [*PERTURBATIONS, "jpeg:5", "size:0.5", "font:DejaVuSans-Bold.ttf"])
def test_a_perturbation_is_another_picture_and_always_the_same_one(name):
    draw = perturbation(name)
    for item in held_out_items(1, 8, "reading"):
        first, clean = draw(item.spec), pixels(item.image)
        assert first == draw(item.spec)
        other = pixels(first)
        assert other.shape != clean.shape or np.abs(other - clean).sum() > 0
        if name.startswith("size"):
            factor = float(name.partition(":")[2] or 1.5)
            assert other.shape[0] == pytest.approx(clean.shape[0] * factor, abs=1)


def test_recoloured_marks_keep_their_names():
    from datasets.charts.content import COLOURS

    for item in held_out_items(1, 60, "all"):
        for name, colour in zip(item.table.marks, recoloured(item.spec).style.colours, strict=True):
            nearest = min(COLOURS, key=lambda n: sum(abs(a - b) for a, b in zip(COLOURS[n], colour, strict=True)))
            assert nearest == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("color", "did you mean 'colour'"),
        ("jpeg:0", "1 to 95"),
        ("jpeg:high", "1 to 95"),
        ("size:9", "0.5 to 4"),
        ("size:nan", "0.5 to 4"),
        ("font:../../etc/passwd", "one of DejaVuSerif"),
        ("colour:2", "no levels"),
    ],
)
def test_wrong_perturbations_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        perturbation(name)


def test_a_chart_without_texts_has_no_font():
    with pytest.raises(ValueError, match="needs printed names"):
        perturbation("font")(held_out_items(0, 1, "all")[0].spec)


@pytest.mark.parametrize("profile", ["all", "reading", "glance"])
def test_a_changed_value_changes_the_answer_and_nothing_else(profile):
    items, found = held_out_items(4, 150, profile), Counter()
    for item in items:
        changed = changed_item(item)
        if changed is None:
            continue
        assert (changed.question, changed.kind, changed.spec.style) == (item.question, item.kind, item.spec.style)
        assert clearly_other(item.table, changed.answer, item.answer)
        assert all(check.correct for check in check_steps(changed.rationale, changed.table))
        before, after = (np.array(chart.table.values) for chart in (item, changed))
        assert 1 <= (before != after).sum() <= (4 if item.chart_type == "pie" else 2)
        assert before.sum() == after.sum() or item.chart_type != "pie"
        assert changed.table.categories == item.table.categories and changed.table.series == item.table.series
        assert split_of(changed.table, 0.125) == "held_out"
        assert changed.image != item.image
        assert changed == changed_item(item)
        found[item.kind] += 1
    kinds = Counter(item.kind for item in items)
    assert found["value"] / kinds["value"] > 0.9 and found["extremum"] / kinds["extremum"] > 0.8


@pytest.mark.parametrize(
    "arguments", [["--count", "40", "--profile", "all"], ["--count", "20", "--profile", "reading", "--renderer", "matplotlib"]]
)
def test_the_command_draws_every_type(tmp_path, capsys, arguments):
    assert main([str(tmp_path / "a"), *arguments]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("stacked_bar", "area", "scatter"))
    assert main([str(tmp_path / "b"), *arguments]) == 0
    (shard,) = (tmp_path / "a").glob("*.tar")
    assert shard.read_bytes() == (tmp_path / "b" / shard.name).read_bytes()
