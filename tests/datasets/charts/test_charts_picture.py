"""The picture says what the table says: measured in pixels, for each chart type and profile."""

import io

import numpy as np
import PIL.Image
import pytest

from datasets.charts.draw import make_layout, render
from datasets.charts.profile import PROFILES, make_profile
from datasets.charts.spec import make_spec
from vlm.image import to_png

BARS = ("vertical_bar", "horizontal_bar", "grouped_bar")


def specs(type_, profile, count=25):
    chosen = make_profile(profile)
    for index in range(count):
        yield make_spec(11, index, "train", chosen, type_=type_).restyled(outline=False, hole=0.0, ink=(1, 2, 3))


def plot_pixels(spec):
    """The plot as an array [rows, columns, 3], with its axis turned upright and values growing towards row 0."""
    left, top, right, bottom = make_layout(spec).plot
    pixels = np.asarray(render(spec)).astype(int)[top:bottom, left + 1 : right + 1]
    return pixels.transpose(1, 0, 2)[::-1] if spec.type == "horizontal_bar" else pixels


def bar_heights(pixels, colour):
    """Heights of the runs of neighbouring columns in exactly this colour, from first to last. Texts are black and thin."""
    columns = (pixels == colour).all(axis=2).sum(axis=0)
    edges = np.flatnonzero(np.diff((columns > 0).astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [int(columns[start:stop].max()) for start, stop in edges]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("type_", BARS)
def test_bars_are_as_high_as_their_values(type_, profile):
    for spec in specs(type_, profile):
        spec = spec.restyled(value_labels=False)
        pixels, table, style = plot_pixels(spec), spec.table, spec.style
        length = pixels.shape[0]
        several = len(style.colours) > 1
        for mark, colour in enumerate(style.colours):
            wanted = table.values[mark] if table.series else (table.values[0][mark],) if several else table.values[0]
            heights = bar_heights(pixels, colour)
            assert len(heights) == len(wanted), (spec.key, table)
            assert np.abs(np.array(heights) - np.array(wanted) / style.axis_top * length).max() <= 1.5, (spec.key, table)
            if profile == "sight":
                assert [round(h / length * style.axis_top) for h in heights] == list(wanted)


def near(pixels, colour, distance=60):
    return np.abs(pixels - np.array(colour)).sum(axis=-1) < distance


@pytest.mark.parametrize("profile", PROFILES)
def test_slices_take_their_share_of_the_pie(profile):
    for spec in specs("pie", profile):
        left, top, right, bottom = make_layout(spec).plot
        pixels = np.asarray(render(spec)).astype(int)[top : bottom + 1, left : right + 1]
        areas = np.array([near(pixels, colour).sum() for colour in spec.style.colours])
        shares = np.array(spec.table.values[0]) / sum(spec.table.values[0])
        assert np.abs(areas / areas.sum() - shares).max() < 0.035, (spec.key, spec.table)


@pytest.mark.parametrize("profile", PROFILES)
def test_lines_pass_through_their_points(profile):
    for spec in specs("line", profile):
        left, top, right, bottom = make_layout(spec).plot
        pixels, table = np.asarray(render(spec)).astype(int), spec.table
        for colour, values in zip(spec.style.colours, table.values, strict=True):
            for column, value in enumerate(values):
                x = left + (right - left) * (column + 0.5) / len(values)
                y = bottom - (bottom - top) * value / spec.style.axis_top
                around = pixels[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
                assert near(around, colour).any(), (spec.key, table)


def test_bars_of_a_printed_chart_keep_clear_of_the_edge():
    for type_ in BARS:
        for spec in specs(type_, "read", 60):
            left, top, right, bottom = make_layout(spec).plot
            assert right - left > 30, spec.key
            assert bottom - top > 30, spec.key


def test_printed_texts_stay_inside_the_picture():
    from datasets.charts.text import text_width

    profile = make_profile("read")
    for index in range(300):
        spec = make_spec(5, index, "train", profile)
        for text in make_layout(spec).texts:
            long = text_width(text.text, text.size)
            start = {"m": text.x - long / 2, "l": text.x, "r": text.x - long}[text.anchor[0]]
            if text.rotated:
                assert text.y > -1
                assert text.y + long <= spec.style.height + 1, (spec.key, text)
            else:
                assert start > -3, (spec.key, text)
                assert start + long <= spec.style.width + 3, (spec.key, text)


def test_every_printed_name_and_number_is_in_the_picture():
    profile = make_profile("read")
    for index in range(200):
        spec = make_spec(6, index, "train", profile)
        printed = [text.text for text in make_layout(spec).texts]
        for name in (*spec.table.categories, *spec.table.series):
            assert any(text == name or text.startswith(f"{name} ") for text in printed), (spec.key, name)


def test_values_without_printed_numbers_lie_on_ticks_or_half_way():
    profile = make_profile("read")
    for index in range(300):
        spec = make_spec(7, index, "train", profile)
        if spec.type == "pie" or spec.style.value_labels:
            continue
        unit = spec.style.axis_step // (2 if spec.style.grid else 1)
        assert all(value % unit == 0 and 0 < value <= spec.style.axis_top for row in spec.table.values for value in row)


def test_encoded_picture_is_the_picture():
    picture = render(make_spec(0, 0))
    assert PIL.Image.open(io.BytesIO(to_png(picture))).tobytes() == picture.tobytes()


def test_size_follows_the_profile():
    assert render(make_spec(0, 0, profile=make_profile("sight", side=[96, 96]))).size == (96, 96)
    sizes = {render(make_spec(0, i, profile=make_profile("read"))).size for i in range(20)}
    assert len(sizes) > 10
    assert all(128 <= max(size) <= 256 for size in sizes)
