"""Specifications are pure functions, splits never share a table, profiles refuse what cannot be."""

from collections import Counter

import pytest

from datasets.charts.content import COLOURS, curve, parts, trend
from datasets.charts.kinds import CHART_TYPES
from datasets.charts.profile import PROFILES, Profile, make_profile
from datasets.charts.rng import Draw
from datasets.charts.spec import make_spec, split_of
from datasets.charts.table import NumberFormat, table_text
from datasets.charts.vocabulary import MEASURES, ORDERED, SORTS


def test_draws_are_fixed_for_ever():
    draw = Draw("fixed", 1)
    assert [draw.integer(0, 99) for _ in range(6)] == [39, 33, 41, 26, 14, 64]
    assert sorted(draw.some(range(5), 5)) == [0, 1, 2, 3, 4]
    assert draw.weighted({"never": 0.0, "always": 1.0, "nor this": 0.0}) == "always"


@pytest.mark.parametrize("name", PROFILES)
def test_specification_depends_on_its_arguments_alone(name):
    profile = make_profile(name)
    backwards = [make_spec(3, i, "train", profile) for i in reversed(range(20))]
    assert backwards[::-1] == [make_spec(3, i, "train", profile) for i in range(20)]
    others = [make_spec(4, 0, "train", profile), make_spec(3, 1, "train", profile), make_spec(3, 0, "held_out", profile)]
    assert all(other.table != backwards[-1].table for other in others)


@pytest.mark.parametrize("name", PROFILES)
def test_train_and_held_out_never_share_a_table(name):
    profile = make_profile(name)
    train = {make_spec(seed, i, "train", profile).table.digest() for seed in range(3) for i in range(1200)}
    held_out = [make_spec(9, i, "held_out", profile) for i in range(600)]
    assert not train & {spec.table.digest() for spec in held_out}
    assert all(split_of(spec.table, profile.held_out_share) == "held_out" for spec in held_out)


def test_chart_types_follow_their_weights_on_both_sides_of_the_split():
    profile = make_profile("sight", types={"pie": 3, "line": 1})
    for split in ("train", "held_out"):
        counts = Counter(make_spec(0, i, split, profile).type for i in range(800))
        assert set(counts) == {"pie", "line"}
        assert counts["pie"] / 800 == pytest.approx(0.75, abs=0.05)


def test_sight_names_marks_by_different_colours():
    for index in range(300):
        spec = make_spec(1, index)
        assert len(set(spec.table.marks)) == len(spec.table.marks) == len(spec.style.colours)
        for name, colour in zip(spec.table.marks, spec.style.colours, strict=True):
            distance = {other: sum(abs(a - b) for a, b in zip(colour, rgb, strict=True)) for other, rgb in COLOURS.items()}
            assert min(distance, key=distance.get) == name


def test_two_lines_never_meet_at_a_point():
    profile = make_profile("sight", types={"line": 1})
    for index in range(200):
        values = make_spec(2, index, "train", profile).table.values
        assert all(len(set(column)) == len(column) for column in zip(*values, strict=True))


@pytest.mark.parametrize(
    ("values", "name"),
    [((1, 2, 2, 5), "rising"), ((9, 3, 3), "falling"), ((4, 4, 4), "flat"), ((1, 5, 2), "mixed"), ((5, 1, 5), "mixed")],
)
def test_trend(values, name):
    assert trend(values) == name


def test_curves_have_the_trend_asked_for():
    for shape in ("rising", "falling", "flat", "mixed"):
        assert {trend(curve(shape, 5, 9, Draw(shape, i))) for i in range(50)} == {shape}


def test_parts_add_up():
    for i in range(100):
        split = parts(10, 1 + i % 5, Draw(i))
        assert sum(split) == 10
        assert min(split) >= 1


@pytest.mark.parametrize(
    ("number", "value", "text"),
    [
        (NumberFormat(), 7, "7"),
        (NumberFormat(thousands=True), 1234567, "1,234,567"),
        (NumberFormat(1, suffix="%"), 123, "12.3%"),
        (NumberFormat(1, prefix="$"), 45, "$4.5"),
        (NumberFormat(1, suffix="M"), 21, "2.1M"),
        (NumberFormat(2), 5, "0.05"),
    ],
)
def test_numbers_are_written_and_read_back(number, value, text):
    assert number.text(value) == text
    assert number.parse(text) == value


def test_vocabulary_is_large_and_safe_in_tables():
    names = {name for sort in (*SORTS.values(), *ORDERED.values()) for name in sort}
    assert len(names) > 400
    assert not any(set(";:|,") & set(name) or len(name) > 12 for name in {*names, *MEASURES})
    for sort in SORTS.values():
        assert len(set(sort)) == len(sort) >= 12


def test_tables_in_words():
    texts = {spec.type: table_text(spec.table) for spec in (make_spec(0, i, profile=make_profile("all")) for i in range(90))}
    assert set(texts) == set(CHART_TYPES)
    assert all(text.startswith(f"{CHART_TYPES[type_].chart}: ") for type_, text in texts.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "sihgt"}, "did you mean 'sight'"),
        ({"tipes": {}}, "did you mean 'types'"),
        ({"types": {"pi": 1}}, "did you mean 'pie'"),
        ({"kinds": {"value": -1}}, "negative"),
        ({"kinds": {"value": 0}}, "all weights are 0"),
        ({"bars": [5, 2]}, "least, most"),
        ({"slices": [2, 40]}, "at most 7"),
        ({"held_out_share": 1.5}, "held_out_share"),
        ({"top": 1}, "top"),
        ({"dots": [2, 9]}, "at most 7"),
        ({"renderers": {"matplotlb": 1}}, "did you mean 'matplotlib'"),
        ({"table_share": 2}, "table_share"),
        ({"points": [2, 5]}, "at least 3"),
        ({"name": "read", "side": [64, 128]}, "at least 96"),
    ],
)
def test_wrong_profiles_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_profile(fields)
    assert "\n" not in str(caught.value)


def test_profiles_from_plain_values():
    profile = make_profile({"name": "read", "side": [160, 160], "types": {"pie": 2}})
    assert profile.text
    assert profile.side == (160, 160)
    assert make_profile(profile, bars=[3, 3]).bars == (3, 3)
    assert make_profile() == PROFILES["sight"]
    assert isinstance(Profile(), Profile)


def test_unknown_split_and_type_are_refused():
    with pytest.raises(ValueError, match="split 'val'"):
        make_spec(0, 0, "val")
    with pytest.raises(ValueError, match="chart type 'bar'"):
        make_spec(0, 0, type_="bar")
