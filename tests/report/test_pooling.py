"""Tests of pooled estimates: against statsmodels, by hand, and their coverage over simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from sam_bench.report.pooling import pool

#: The difference of each study, and its standard error.
STUDIES = [(1.36, 0.47), (0.87, 0.36), (0.63, 0.30), (0.80, 0.28), (2.40, 0.50)]


def test_pool_equals_paule_mandel():
    """Compare with statsmodels 0.15, `combine_effects(method_re="iterated", use_t=True)`: τ², mean, error and I².

    Its `sd_eff_w_re_hksj`, Hartung and Knapp's, is the same error, and gives the interval.
    """
    pooled = pool(STUDIES)
    assert pooled.scatter**2 == pytest.approx(0.3149382, abs=1e-6)
    assert (pooled.mean, pooled.error) == pytest.approx((1.1317125, 0.3029230), abs=1e-6)
    assert pooled.inconsistency == pytest.approx(0.6220596, abs=1e-6)
    assert pooled.interval == pytest.approx((0.2906634, 1.9727616), abs=1e-5)
    assert pooled.verdict == "worse"


def test_pool_of_equal_errors_by_hand():
    """Check that, with equal errors, τ² is the variance of the differences less the squared error: 4 − 1."""
    pooled = pool([(-2, 1), (0, 1), (2, 1)], margin=1)
    assert pooled.scatter**2 == pytest.approx(3)
    assert (pooled.mean, pooled.error) == pytest.approx((0, math.sqrt(4 / 3)))
    assert pooled.interval[1] == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(4 / 3))
    assert pooled.verdict == "undecided"


def test_pool_of_agreeing_studies_has_no_scatter():
    pooled = pool([(0.1, 0.1), (0.1, 0.1), (0.1, 0.1)], margin=1)
    assert (pooled.scatter, pooled.inconsistency) == (0, 0)
    assert pooled.error == pytest.approx(0.1 / math.sqrt(3))
    assert pooled.verdict == "within the margin"


def test_pool_needs_two_studies():
    with pytest.raises(ValueError, match="at least two"):
        pool([(1.0, 0.1)])


@pytest.mark.parametrize("scatter", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("studies", [3, 4, 7])
def test_pooled_interval_covers(scatter, studies):
    rng = np.random.default_rng(0)
    errors = np.geomspace(0.25, 0.8, studies)
    inside = []
    for _ in range(600):
        means = rng.normal(1, scatter, studies) + rng.normal(0, errors)
        low, high = pool(list(zip(means, errors, strict=True))).interval
        inside.append(low <= 1 <= high)
    assert np.mean(inside) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 600)
