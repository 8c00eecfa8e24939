"""Sources, held-out items, word pictures and the command."""

import io
import json
import tarfile
from collections import Counter

import PIL.Image
import pytest

from datasets.charts.__main__ import main
from datasets.charts.held_out import held_out_items
from datasets.charts.reading import WordSource
from datasets.charts.samples import DESCRIBE, ChartSource, TableSource
from datasets.charts.spec import split_of
from datasets.charts.table import table_text
from datasets.shards import ShardSource
from datasets.source import Source
from vlm.image import open_image, to_png
from vlm.sample import Image, Text


def words(sample):
    return "".join(segment.text for segment in sample.segments if isinstance(segment, Text))


@pytest.mark.parametrize("make", [ChartSource, TableSource, WordSource])
def test_sources_are_pure_functions_with_bounds(make):
    source = make(seed=1, size=10)
    assert isinstance(source, Source)
    assert len(source) == 10
    assert source.get(2, 3) == make(seed=1, size=10).get(2, 3)
    assert source.get(0, 3) != source.get(0, 4)
    assert source.get(0, 3).source == source.name
    with pytest.raises(IndexError):
        source.get(0, 10)


def test_charts_are_new_each_epoch_and_tables_are_not():
    charts, again, tables = ChartSource(size=5), ChartSource(size=5, repeat=True), TableSource(size=5)
    assert charts.get(0, 1) != charts.get(1, 1)
    assert again.get(0, 1) == again.get(1, 1)
    assert tables.get(0, 1) == tables.get(1, 1)
    assert len({charts.get(epoch, index).key for epoch in range(3) for index in range(5)}) == 15


def test_a_chart_sample_is_one_picture_and_its_questions():
    source = ChartSource(size=200, questions_per_chart=3, rationale_share=0.5, describe_share=0.5)
    cues = Counter()
    for index in range(200):
        first, *rest = source.get(0, index).segments
        assert isinstance(first, Image)
        assert [segment.learn for segment in rest] == [False, True] * (len(rest) // 2)
        text = words(source.get(0, index))
        cues.update(reason=text.count("\nReason:"), asked=text.count("Question:"), described=text.count(DESCRIBE))
        if DESCRIBE in text:
            assert table_text(source.chart(0, index)[0].table) in text
    assert cues["described"] / 200 == pytest.approx(0.5, abs=0.1)
    assert cues["reason"] / (cues["asked"] - cues["described"]) == pytest.approx(0.5, abs=0.08)


def test_rationale_share_reaches_both_ends():
    assert "Reason:" not in words(ChartSource(size=5, rationale_share=0.0).get(0, 0))
    text = words(ChartSource(size=5, rationale_share=1.0, describe_share=0.0).get(0, 0))
    assert text.count("Reason:") == text.count("Question:")


def test_a_table_sample_gives_its_table_once_unlearnt():
    source = TableSource(size=50)
    for index in range(50):
        sample, (spec, _) = source.get(0, index), source.chart(0, index)
        assert not any(isinstance(segment, Image) for segment in sample.segments)
        assert sample.segments[0].text.startswith(table_text(spec.table) + "\n")
        assert not sample.segments[0].learn


@pytest.mark.parametrize("fields", [{"size": 0}, {"questions_per_chart": 0}, {"rationale_share": 1.2}])
def test_wrong_arguments_are_refused(fields):
    with pytest.raises(ValueError, match="got"):
        ChartSource(**fields)


@pytest.mark.parametrize("profile", ["sight", "read"])
def test_held_out_items_are_a_fixed_balanced_mix(profile):
    items = held_out_items(3, 300, profile)
    assert [item.id for item in held_out_items(3, 60, profile)] == [item.id for item in items[:60]]
    assert [item.gold for item in held_out_items(3, 60, profile)] == [item.gold for item in items[:60]]
    assert len({item.id for item in items}) == 300
    types, kinds = Counter(item.chart_type for item in items), Counter(item.kind for item in items)
    assert set(types.values()) == {60}
    assert len(kinds) == 12
    assert all(split_of(item.table, 0.125) == "held_out" for item in items)
    assert PIL.Image.open(io.BytesIO(items[0].image)).size == (items[0].spec.style.width, items[0].spec.style.height)


def test_weights_shape_the_held_out_mix():
    items = held_out_items(0, 90, {"types": {"pie": 2, "line": 1}, "kinds": {"value": 1, "extremum": 2, "trend": 0}})
    assert Counter(item.chart_type for item in items) == {"pie": 60, "line": 30}
    assert Counter(item.kind for item in items) == {"value": 30, "extremum": 60}


def test_word_pictures_say_their_text_and_keep_the_splits_apart():
    train, held_out = (WordSource(split=split, size=400, words=(1, 3), side=72) for split in ("train", "held_out"))
    said = [{words(source.get(0, i)).partition("Answer: ")[2] for i in range(400)} for source in (train, held_out)]
    assert not said[0] & said[1]
    assert {len(text.split()) for text in said[0]} >= {1, 2, 3}
    picture = open_image(train.get(0, 0).segments[0].data)
    assert picture.size == (72, 72)
    assert picture.convert("L").getextrema()[0] < 140


def stored(segments):
    return tuple(Image(to_png(s.data.render())) if isinstance(s, Image) else s for s in segments)


def test_generated_samples_are_equal_and_draw_nothing_until_they_are_decoded(monkeypatch):
    words, charts = WordSource(size=9), ChartSource(size=9, profile="read")
    drawings = [source.get(0, 3).segments[0].data for source in (words, charts)]
    assert drawings == [source.get(0, 3).segments[0].data for source in (words, charts)]
    assert drawings != [source.get(0, 4).segments[0].data for source in (words, charts)]
    monkeypatch.setattr(PIL.Image, "new", lambda *_: pytest.fail("drawn"))
    assert words.get(1, 0).segments and charts.get(1, 0).segments


def test_command_writes_shards_that_a_source_reads(tmp_path, capsys):
    arguments = ["--count", "12", "--seed", "4", "--profile", "read"]
    assert main([str(tmp_path / "a"), *arguments, "--show", str(tmp_path / "sheet.png")]) == 0
    assert main([str(tmp_path / "b"), *arguments]) == 0
    (shard,) = (tmp_path / "a").glob("*.tar")
    assert shard.read_bytes() == (tmp_path / "b" / shard.name).read_bytes()
    source = ShardSource(tmp_path / "a", shuffle=False)
    made = ChartSource(4, "train", 12, "read")
    assert [source.get(0, i).segments for i in range(12)] == [stored(made.get(0, i).segments) for i in range(12)]
    with tarfile.open(shard) as tar:
        record = json.load(tar.extractfile(next(m for m in tar.getmembers() if m.name.endswith(".json"))))
    assert record["meta"]["spec"]["table"]["values"] == [list(row) for row in made.chart(0, 0)[0].table.values]
    assert record["meta"]["questions"][0].keys() == {"kind", "form", "text", "answer", "rationale"}
    assert min(PIL.Image.open(tmp_path / "sheet.png").size) > 500
    assert "12 charts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--profile", "raed"], "did you mean 'read'"), (["--count", "0"], "--count"), (["--side", "-3"], "side")],
)
def test_command_refuses_mistakes_in_one_line(tmp_path, capsys, arguments, message):
    assert main([str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
