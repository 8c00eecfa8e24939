"""Stacked bars, areas and scatter: the picture says what the table says, in both renderers."""

import numpy as np
import pytest

from datasets.charts.draw import make_layout, render
from datasets.charts.kinds import CHART_TYPES
from datasets.charts.profile import make_profile
from datasets.charts.spec import make_spec

NEW = ("stacked_bar", "area", "scatter")


def specs(type_, profile, count=25, renderer="own"):
    chosen = make_profile(profile, renderers={renderer: 1.0})
    for index in range(count):
        yield make_spec(12, index, "train", chosen, type_=type_).restyled(outline=False, ink=(1, 2, 3))


def near(pixels, colour, distance=60):
    return np.abs(pixels.astype(int) - np.array(colour)).sum(axis=-1) < distance


@pytest.mark.parametrize("profile", ["all", "reading"])
def test_parts_of_a_stack_are_as_high_as_their_values(profile):
    for spec in specs("stacked_bar", profile):
        spec = spec.restyled(value_labels=False)
        layout, pixels, table = make_layout(spec), np.asarray(render(spec)), spec.table
        unit = (layout.at(0) - layout.at(spec.style.axis_top)) / spec.style.axis_top
        for column in range(len(table.categories)):
            start, size = layout.slot(column)
            line = pixels[:, round(start + size / 2)]
            for row, values in enumerate(table.values):
                _, top, _, bottom = layout.segment(row, column)
                seen = (line[top : bottom + 1] == spec.style.colours[row]).all(axis=1).sum()
                assert abs(seen - values[column] * unit) <= 1.5, (spec.key, table)
        assert max(map(sum, zip(*table.values, strict=True))) <= spec.style.axis_top


@pytest.mark.parametrize("renderer", ["own", "matplotlib"])
@pytest.mark.parametrize("profile", ["all", "reading"])
def test_edges_of_areas_pass_through_their_points(profile, renderer):
    for spec in specs("area", profile, 25 if renderer == "own" else 6, renderer):
        layout, pixels = make_layout(spec), np.asarray(render(spec))
        for colour, values in zip(spec.style.colours, spec.table.values, strict=True):
            for column, value in enumerate(values):
                x, y = layout.point(column, value)
                around = pixels[max(0, y - 2) : y + 3, round(x) - 2 : round(x) + 3]
                assert near(around, colour, 90).any(), (spec.key, spec.table, column)


@pytest.mark.parametrize("renderer", ["own", "matplotlib"])
@pytest.mark.parametrize("profile", ["all", "reading"])
def test_dots_stand_at_their_coordinates_apart_from_each_other(profile, renderer):
    for spec in specs("scatter", profile, 25 if renderer == "own" else 6, renderer):
        layout, pixels = make_layout(spec), np.asarray(render(spec))
        for colour, (x, y) in zip(spec.style.colours, spec.table.values, strict=True):
            row, column = layout.at(y), layout.across(x)
            assert near(pixels[row - 1 : row + 2, column - 1 : column + 2], colour, 90).any(), (spec.key, spec.table)
        assert len(set(spec.table.values)) == len(spec.table.values)


@pytest.mark.parametrize("profile", ["all", "reading"])
@pytest.mark.parametrize("type_", CHART_TYPES)
def test_the_second_renderer_shows_every_colour_where_the_first_does(type_, profile):
    for spec in specs(type_, profile, 2, "matplotlib"):
        picture = render(spec)
        assert picture.size == (spec.style.width, spec.style.height) and picture.mode == "RGB"
        left, top, right, bottom = make_layout(spec).plot
        plot = np.asarray(picture)[top : bottom + 1, left : right + 1]
        assert all(near(plot, colour, 90).any() for colour in spec.style.colours), spec.key


def test_bars_of_the_second_renderer_are_as_high_as_their_values():
    for spec in specs("vertical_bar", "all", 6, "matplotlib"):
        layout, pixels = make_layout(spec), np.asarray(render(spec))
        unit = (layout.at(0) - layout.at(spec.style.axis_top)) / spec.style.axis_top
        for column, value in enumerate(spec.table.values[0]):
            start, size = layout.slot(column)
            line = pixels[layout.plot[1] : layout.plot[3], round(start + size / 2)]
            assert abs(near(line, spec.style.colours[column]).sum() - value * unit) <= 2.5, (spec.key, column)


def test_the_renderer_is_drawn_by_its_weights_and_moves_nothing_else():
    mixed = make_profile("all", renderers={"own": 3, "matplotlib": 1})
    drawn = [make_spec(0, i, "train", mixed) for i in range(300)]
    assert 0.15 < sum(spec.renderer == "matplotlib" for spec in drawn) / 300 < 0.35
    assert [spec.table for spec in drawn] == [make_spec(0, i, "train", make_profile("all")).table for i in range(300)]


def test_too_small_a_scale_is_refused_in_one_line():
    with pytest.raises(ValueError, match="do not fit in a stack of 3"):
        make_spec(0, 0, profile=make_profile("all", top=3, group_series=[4, 4]), type_="stacked_bar")
    with pytest.raises(ValueError, match="7 dots do not keep apart on 3 levels"):
        make_spec(0, 0, profile=make_profile("all", top=3, dots=[7, 7]), type_="scatter")
