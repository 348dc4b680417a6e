"""Intervals of means and rank correlations: golden values by SciPy, and how often an interval claims anything."""

import math

import numpy as np
import pytest
from scipy import stats

from sam_bench.report.stats import correlation_across, correlation_within


def test_correlations_are_scipys_and_their_bootstrap_is_too():
    generator = np.random.default_rng(0)
    groups = {name: generator.normal((0.3 * i, 0.3 * i), size=(6, 2)) for i, name in enumerate("abcdefgh")}
    means = np.array([points.mean(0) for points in groups.values()])
    across = correlation_across(groups)
    assert across.value == pytest.approx(stats.spearmanr(*means.T).statistic)
    theirs = stats.bootstrap(
        tuple(means.T), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, vectorized=False, n_resamples=2000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert (across.low, across.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    within = correlation_within(groups | {"two runs": np.array([[0, 0], [1, 1]])})
    each = [stats.spearmanr(*points.T).statistic for points in groups.values()]
    assert within.value == pytest.approx(np.mean(each)) and (within.groups, within.runs) == (8, 48)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("correlation", [correlation_across, correlation_within])
def test_perfect_order_has_no_interval(correlation, sign):
    """Every draw of it is in the same order: that says nothing of how sure it is."""
    found = correlation(
        {name: [(i + 0.1 * j, sign * (i + 0.1 * j)) for j in range(4)] for i, name in enumerate("abcdefgh")}
    )
    assert found.value == pytest.approx(sign) and math.isnan(found.low) and math.isnan(found.high)


def test_groups_count_by_their_runs_and_those_without_an_order_do_not():
    rising, falling = [(i, i) for i in range(10)], [(i, -i) for i in range(5)]
    constant = [(1, i) for i in range(20)]
    found = correlation_within({"rising": rising, "falling": falling, "constant": constant})
    assert found.value == pytest.approx((10 - 5) / 15) and (found.groups, found.runs) == (2, 15)


def test_of_too_little_no_correlation_is_told():
    few = {name: [(i, i)] for i, name in enumerate("abcd")}
    for found in (correlation_across(few), correlation_within(few)):
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_where_nothing_goes_with_anything_few_intervals_exclude_0():
    generator = np.random.default_rng(1)
    claimed = {correlation_across: 0, correlation_within: 0}
    for _ in range(200):
        drawn = {name: generator.normal(size=(8, 2)) for name in range(20)}
        for function in claimed:
            found = function(drawn, resamples=399)
            claimed[function] += found.low > 0 or found.high < 0
    assert all(count / 200 <= 0.10 for count in claimed.values()), claimed
