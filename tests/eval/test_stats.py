"""Intervals that mean what they say."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.special import betaln

from eval import stats


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (10, 10), (63, 200)])
def test_share_is_wilsons_interval(hits, n):
    figure = stats.share([1.0] * hits + [0.0] * (n - hits), variant="v")
    expected = scipy_stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert figure["interval"] == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert figure["value"] == hits / n and figure["n"] == n


def test_questions_about_one_picture_count_as_one():
    values = np.repeat(np.tile([0.0, 1.0], 20), 10)
    alone, grouped = stats.share(values, variant="v"), stats.share(values, np.repeat(np.arange(40), 10), variant="v")
    width = [f["interval"][1] - f["interval"][0] for f in (alone, grouped)]
    assert width[1] > 2.5 * width[0]


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_pictures_count_also_where_all_answers_agree_or_there_is_one(answer):
    grouped = stats.share([answer] * 40, np.repeat(np.arange(4), 10), variant="v")
    assert grouped["interval"] == pytest.approx(stats.share([answer] * 4, variant="v")["interval"]) and grouped["n"] == 40
    low, high = stats.share([0.0, 1.0] * 20, ["one picture"] * 40, variant="v")["interval"]
    assert high - low > 0.85


@pytest.mark.parametrize("grouped", [False, True])
def test_coverage_of_share(grouped):
    """95 % intervals hold the truth in about 95 % of simulated evaluations, also when pictures make answers dependent."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        chance = rng.beta(3, 2, size=60) if grouped else np.full(60, 0.6)
        values = (rng.random((60, 5)) < chance[:, None]).astype(float).ravel()
        low, high = stats.share(values, np.repeat(np.arange(60), 5) if grouped else None, variant="v")["interval"]
        covered.append(low <= 0.6 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_mean_of_other_values_is_bootstrapped_and_agrees_with_theory():
    values = np.random.default_rng(0).normal(0.5, 0.1, size=400)
    low, high = stats.mean(values, variant="v")["interval"]
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert stats.mean(values, variant="v") == stats.mean(values, variant="v")


def test_many_groups_take_the_normal_interval():
    values = np.random.default_rng(0).random(stats.MANY + 1)
    low, high = stats.mean(values, variant="v")["interval"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / len(values) ** 0.5, rel=1e-2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    scores, labels = zip(*pairs, strict=True)
    wins = [(a > b) + (a == b) / 2 for a, x in pairs if x for b, y in pairs if not y]
    result = stats.auroc(scores, labels)
    assert result == pytest.approx(np.mean(wins)) if wins else np.isnan(result)


def test_auroc_weights_are_repetitions():
    rng = np.random.default_rng(0)
    scores, labels, counts = rng.integers(0, 5, 40), rng.random(40) < 0.4, rng.integers(0, 3, (3, 40))
    repeated = [stats.auroc(np.repeat(scores, c), np.repeat(labels, c)) for c in counts]
    assert stats.weighted_auroc(scores, labels, counts) == pytest.approx(repeated)


def test_auroc_figure_holds_its_value_and_widens_with_groups():
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.random(40) < 0.5, 10)
    scores = labels + np.repeat(rng.normal(size=40), 10)
    alone = stats.auroc_figure(scores, labels, variant="v")
    grouped = stats.auroc_figure(scores, labels, np.repeat(np.arange(40), 10), variant="v")
    assert grouped["interval"][0] < alone["interval"][0] < alone["value"] < alone["interval"][1] < grouped["interval"][1]


def test_paired_difference_is_narrower_than_two_arms():
    rng = np.random.default_rng(0)
    a = (rng.random(500) < 0.5).astype(float)
    b = np.where(rng.random(500) < 0.1, 0.0, a)
    low, high = stats.paired_difference(a, b, variant="v")["interval"]
    assert 0 < low < (a - b).mean() < high and high - low < 0.05
    with pytest.raises(ValueError, match="3 and 2"):
        stats.paired_difference([1, 0, 1], [1, 0], variant="v")


def test_nothing_to_measure_is_null_not_a_crash():
    for figure in (
        stats.share([], variant="v"),
        stats.auroc_figure([], [], variant="v"),
        stats.auroc_figure([1.0], [True], variant="v"),
    ):
        assert figure["value"] is None and figure["interval"] is None


@pytest.mark.parametrize(
    ("kind", "groups", "size", "p", "times"),
    [("share", 60, 5, 0.6, 1000), ("share", 300, 1, 0.05, 1000), ("mean", 60, 3, 0.8, 300),
     ("paired", 60, 3, 0.1, 1000), ("paired", 300, 1, 0.05, 1000)]
    + [pytest.param(kind, groups, size, p, 4000, marks=pytest.mark.slow) for kind in ("share", "mean", "paired")
       for groups in (50, 200) for size in (1, 4) for p in (0.1, 0.5, 0.9)],
)  # fmt: skip
def test_coverage(kind, groups, size, p, times):
    """95 % intervals hold the truth in 93 to 97 % of simulated evaluations with `groups` pictures of `size` questions each,
    which are alike (intra-class correlation 0.25)."""
    rng = np.random.default_rng(0)
    index, covered = np.repeat(np.arange(groups), size), []
    for _ in range(times):
        chance = rng.beta(3 * p, 3 * (1 - p), size=groups)[index] if size > 1 else np.full(len(index), p)
        hits = (rng.random(len(index)) < chance).astype(float)
        if kind == "share":
            interval, truth = stats.share(hits, index, variant="v")["interval"], p
        elif kind == "mean":  # 0, 0.3, 0.6, 0.9 or 1, as VQA accuracy
            values = np.array([0, 0.3, 0.6, 0.9, 1])[rng.binomial(4, chance)]
            interval = stats.mean(values, index, variant="v")["interval"]
            moments = [(4, 1, 0.3), (6, 2, 0.6), (4, 3, 0.9), (1, 4, 1.0)]
            truth = sum(n * v * _moment(p, k, 4 - k, size) for n, k, v in moments)
        else:  # A is right where B is or, seldom, alone
            other = np.where(rng.random(len(index)) < 0.1, 1 - hits, hits)
            interval, truth = stats.paired_difference(hits, other, index, variant="v")["interval"], 0.1 * (2 * p - 1)
        covered.append(interval[0] <= truth <= interval[1])
    noise = 2.5 * (0.05 * 0.95 / times) ** 0.5
    assert 0.93 - noise <= np.mean(covered) <= 0.97 + noise


def _moment(p: float, hits: int, misses: int, size: int) -> float:
    """E[chance**hits · (1 − chance)**misses]"""
    if size == 1:
        return p**hits * (1 - p) ** misses
    return float(np.exp(betaln(3 * p + hits, 3 * (1 - p) + misses) - betaln(3 * p, 3 * (1 - p))))


def test_an_interval_of_bounded_scores_stays_inside():
    values = np.append(np.zeros(40), 0.3)
    low, high = stats.mean(values, variant="v")["interval"]
    assert low == 0 and 0 < high <= 1


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (8, 1), (30, 12), (5, 5)])
def test_mcnemar_is_the_exact_test(only_a, only_b):
    a, b = [1.0] * only_a + [0.0] * only_b + [1.0] * 9, [0.0] * only_a + [1.0] * only_b + [1.0] * 9
    n, tail = only_a + only_b, sum(comb(only_a + only_b, k) for k in range(min(only_a, only_b) + 1))
    assert stats.mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail / 2**n))


def test_paired_bootstrap_agrees_with_the_t_test_and_sees_groups():
    rng = np.random.default_rng(3)
    a = rng.normal(0.12, 1, size=200)
    p = stats.paired_bootstrap(a, np.zeros(200))
    assert p == pytest.approx(scipy_stats.ttest_1samp(a, 0).pvalue, abs=0.05)
    repeated = np.repeat(a, 5)
    assert stats.paired_bootstrap(repeated, 0 * repeated, np.repeat(np.arange(200), 5)) == p
    assert stats.paired_bootstrap([], []) == 1.0 == stats.paired_bootstrap([1.0, 2.0], [1.0, 2.0])


def test_no_item_that_differs_leaves_a_doubt():
    low, high = stats.paired_difference([1.0] * 40, [1.0] * 40, variant="v")["interval"]
    assert -high == low and 0.05 < high < 0.12


@pytest.mark.parametrize("difference", [1.0, 0.3])
def test_few_items_that_all_improve_are_not_certain(difference):
    low, high = stats.paired_difference([difference] * 3, [0.0] * 3, variant="v")["interval"]
    assert low < difference <= high <= 1 and difference - low > 0.3


def test_a_mean_of_strata_has_the_variance_of_its_strata_and_stays_in_range():
    rng = np.random.default_rng(0)
    small, large = (rng.random(30) < 0.5).astype(float), (rng.random(3000) < 0.5).astype(float)
    figure = stats.stratified([stats.mean(part, variant="v") for part in (small, large)], variant="v")
    assert figure["value"] == pytest.approx((small.mean() + large.mean()) / 2) and figure["n"] == 3030
    expected = 2 * 1.96 * (small.var() / 30 + large.var() / 3000) ** 0.5 / 2
    assert figure["interval"][1] - figure["interval"][0] == pytest.approx(expected, rel=0.1)
    low, high = stats.stratified([stats.mean([1.0] * 20, variant="v")] * 3, variant="v", scale=600)["interval"]
    assert 480 < low < high == 600
