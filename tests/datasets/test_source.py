import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.source import BadSample, permuted


@given(st.integers(1, 300), st.integers(0, 2**70), st.integers(0, 1000))
def test_permuted_is_a_permutation(length, seed, epoch):
    assert sorted(permuted(i, length, seed, epoch) for i in range(length)) == list(range(length))


def test_orders_differ_by_seed_and_epoch():
    orders = {tuple(permuted(i, 50, seed, epoch) for i in range(50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_neighbours_are_spread():
    places = [permuted(i, 10_000, 0, 0) for i in range(1000)]
    steps = [abs(a - b) for a, b in itertools.pairwise(places)]
    assert 2800 < sum(steps) / len(steps) < 3900  # a third of the length when independent
    assert 350 < sum(p >= 5000 for p in places) < 650


def test_index_outside_the_epoch():
    with pytest.raises(IndexError, match="index 5 is outside an epoch of 5"):
        permuted(5, 5, 0, 0)


def test_bad_sample_crosses_processes():
    error = pickle.loads(pickle.dumps(BadSample("broken", "shard 3")))
    assert (error.reason, error.detail, str(error)) == ("broken", "shard 3", "broken: shard 3")
