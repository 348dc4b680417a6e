"""Tests of intervals of means and of rank correlations, against SciPy and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from sam_bench.report.stats import correlation_across, correlation_within, t_interval


def test_t_interval_is_students():
    values = [3.3, 3.1, 3.25, 2.9]
    expected = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert all(math.isnan(bound) for bound in t_interval([3.0]))
    assert t_interval([3.0, 3.0]) == (3.0, 3.0)


def correlated_groups() -> dict[str, np.ndarray]:
    """Return eight groups of six points, whose means lie on a rising line."""
    generator = np.random.default_rng(0)
    return {name: generator.normal((0.3 * i, 0.3 * i), size=(6, 2)) for i, name in enumerate("abcdefgh")}


def test_correlation_across_equals_scipy():
    groups = correlated_groups()
    means = np.array([points.mean(0) for points in groups.values()])
    correlation = correlation_across(groups)
    assert correlation.value == pytest.approx(stats.spearmanr(*means.T).statistic)

    interval = stats.bootstrap(
        tuple(means.T), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, vectorized=False, n_resamples=2000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert (correlation.low, correlation.high) == pytest.approx((interval.low, interval.high), abs=0.05)


def test_correlation_within_is_mean_over_groups():
    groups = correlated_groups()
    correlation = correlation_within(groups | {"two runs": np.array([[0, 0], [1, 1]])})
    expected = np.mean([stats.spearmanr(*points.T).statistic for points in groups.values()])
    assert correlation.value == pytest.approx(expected)
    assert (correlation.groups, correlation.runs) == (8, 48)  # two runs are too few


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("function", [correlation_across, correlation_within])
def test_perfect_order_has_no_interval(function, sign):
    # Every resample is in perfect order too, which does not show how certain the order is.
    correlation = function(
        {name: [(i + 0.1 * j, sign * (i + 0.1 * j)) for j in range(4)] for i, name in enumerate("abcdefgh")}
    )
    assert correlation.value == pytest.approx(sign)
    assert math.isnan(correlation.low) and math.isnan(correlation.high)


def test_correlation_within_weighs_groups_by_runs():
    rising, falling = [(i, i) for i in range(10)], [(i, -i) for i in range(5)]
    constant = [(1, i) for i in range(20)]  # has no order, so it does not count
    correlation = correlation_within({"rising": rising, "falling": falling, "constant": constant})
    assert correlation.value == pytest.approx((10 - 5) / 15)
    assert (correlation.groups, correlation.runs) == (2, 15)


@pytest.mark.parametrize("function", [correlation_across, correlation_within])
def test_few_points_have_no_correlation(function):
    correlation = function({name: [(i, i)] for i, name in enumerate("abcd")})
    assert math.isnan(correlation.value) and math.isnan(correlation.low) and math.isnan(correlation.high)


@pytest.mark.parametrize("function", [correlation_across, correlation_within])
def test_few_intervals_of_noise_exclude_0(function):
    generator = np.random.default_rng(1)
    excluded = 0
    for _ in range(200):
        groups = {name: generator.normal(size=(8, 2)) for name in range(20)}
        correlation = function(groups, resamples=399)
        excluded += correlation.low > 0 or correlation.high < 0
    assert excluded / 200 <= 0.10
