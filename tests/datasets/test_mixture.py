from collections import Counter

import pytest
from dataset_fakes import Words, processor
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.counts import Counts
from datasets.mean_tokens import mean_tokens
from datasets.mixture import Mixture
from datasets.pack import Lane
from vlm.sample import Sample

PROCESSOR = processor()

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


def test_what_happens_when_a_source_is_used_up_is_said_for_each():
    sizes, epochs = [10, 1000], [2, None]
    sources = [Words(f"s{i}", size) for i, size in enumerate(sizes)]
    drop, stop, repeat = (Mixture(sources, [1, 1], epochs, [then, "drop"]) for then in ("drop", "stop", "repeat"))
    assert drop.size is None and drop.counts(1000) == [20, 980]
    assert stop.counts(stop.size) == [20, 19] and stop.draw(stop.size) is None and stop.draw(stop.size - 1).source == 0
    assert repeat.size is None and repeat.counts(1000) == [500, 500] and repeat.draw(998).epoch == 49


def test_the_first_to_stop_ends_it_and_others_may_leave_before():
    sources = [Words("a", 4), Words("b", 10), Words("c", 100)]
    m = Mixture(sources, [1, 1, 1], [1, 1, 1], ["drop", "stop", "stop"])
    assert m.counts(m.size)[:2] == [4, 10] and m.counts(m.size)[2] < 15


@pytest.mark.parametrize(
    ("epochs", "used_up", "message"),
    [
        (1, "halt", "used_up of source 'a' is 'halt': it must be one of drop, stop, repeat"),
        (None, "stop", "used_up of source 'a' is 'stop', but it has no epochs"),
    ],
)
def test_mistakes_in_used_up_are_named(epochs, used_up, message):
    with pytest.raises(ValueError, match=message):
        Mixture([Words("a", 4)], [1], [epochs], [used_up])


def test_weights_as_shares_of_tokens():
    """Documents of very different lengths, and the tokens that come out share as the weights say."""
    sources = [Words("long", 900, longest=60), Words("short", 900, longest=2), Words("q", 900, longest=40, given=True)]
    length = 64
    means = {s.name: mean_tokens(s, PROCESSOR, length, 64) for s in sources}
    m = Mixture(sources, [2, 1, 1], used_up=["repeat"] * 3).by_tokens(means)
    lane, total = Lane(m, PROCESSOR, lane=0, lanes=1, length=length), Counts()
    for _ in range(4000):
        total += lane.row()[1]
    shares = {name: n / total.tokens for name, n in total.source_tokens.items()}
    assert shares == pytest.approx({"long": 0.5, "short": 0.25, "q": 0.25}, abs=0.005)


def test_a_source_without_text_has_no_share_of_tokens():
    source = Words("a", 3)
    source.get = lambda *_: Sample(())
    with pytest.raises(ValueError, match="source 'a' has no text in the first 3 samples"):
        mean_tokens(source, PROCESSOR, 64, 64)
