from collections import Counter

import pytest
from dataset_fakes import Words
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.mixture import Mixture

shares = st.lists(st.floats(0.05, 10), min_size=1, max_size=4)


def mixture(weights, epochs=None, sizes=None):
    sources = [Words(f"s{i}", (sizes or [7] * len(weights))[i]) for i in range(len(weights))]
    return Mixture(sources, weights, epochs)


@settings(max_examples=30, deadline=None)
@given(shares, st.integers(1, 2000))
def test_every_beginning_is_in_proportion(weights, n):
    m = mixture(weights)
    counts = Counter(m.draw(i).source for i in range(n))
    for source, weight in enumerate(weights):
        assert abs(counts[source] - n * weight / sum(weights)) <= len(weights)


def test_proportions_hold_over_many_periods_and_for_small_shares():
    m = mixture([0.7, 0.2999, 0.0001])
    assert m.counts(3_000_000) == [2_100_000, 899_700, 300]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 5), st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=4))
def test_limited_sources_are_used_up_exactly(specs):
    weights, sizes, epochs = zip(*specs, strict=True)
    m = mixture(weights, epochs, sizes)
    draws = [m.draw(n) for n in range(m.size)]
    assert m.draw(m.size) is None and m.draw(m.size + 100) is None
    want = Counter((s, e, i) for s in range(len(specs)) for e in range(epochs[s]) for i in range(sizes[s]))
    assert Counter(draws) == want
    for source in range(len(specs)):  # each in its own order
        own = [d[1:] for d in draws if d.source == source]
        assert own == sorted(own)


@settings(max_examples=30, deadline=None)
@given(shares, st.integers(0, 300))
def test_counts_agree_with_the_draws(weights, n):
    m = mixture(weights, [2 if i == 0 else None for i in range(len(weights))])
    drawn = [m.draw(i) for i in range(n)]
    counts = Counter(d.source for d in drawn if d)
    assert m.counts(n) == [counts[i] for i in range(len(weights))]


def test_the_rest_share_what_a_finished_source_leaves():
    m = mixture([5, 3, 2], [1, None, None], [50, 10, 10])
    counts = Counter(m.draw(n).source for n in range(100, 100 + 1000))
    assert counts == {1: 600, 2: 400}


def test_part_of_an_epoch():
    m = mixture([1], [0.5], [10])
    assert m.size == 5


@pytest.mark.parametrize(
    ("weights", "epochs", "message"),
    [
        ([], None, "the mixture is empty"),
        ([0.0, 1], None, "weight of source 's0' is 0.0"),
        ([1, -2], None, "weight of source 's1' is -2"),
        ([float("nan")], None, "weight of source 's0' is nan"),
        (["x"], None, "weight of source 's0' is 'x': it must be a number above 0"),
        ([1], [0], "epochs of source 's0' is 0"),
        ([1], ["four"], "epochs of source 's0' is 'four': it must be a number above 0"),
        ([1], [1e-9], "epochs of source 's0' is 1e-09: that is none of its"),
        ([1, 1e-9], None, "under 1/100,000"),
        ([1, 1], [None], "one number of epochs for each source"),
    ],
)
def test_mistakes_are_named(weights, epochs, message):
    with pytest.raises(ValueError, match=message):
        mixture(weights, epochs)


def test_an_empty_source_and_twice_the_same_name():
    with pytest.raises(ValueError, match="'a' has no samples"):
        Mixture([Words("a", 0)], [1])
    with pytest.raises(ValueError, match="two sources of the mixture are named 'a'"):
        Mixture([Words("a", 1), Words("a", 2)], [1, 1])
