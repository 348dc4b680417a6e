"""Tests of differences: the four verdicts, families and their levels, Holm's p-values and the equivalence test."""

import math

import numpy as np
import pytest
from scipy import stats

from sam_bench.report.differences import BETTER, UNDECIDED, WITHIN, WORSE, compare, holm, verdict_of
from sam_bench.report.model import StudyModel
from sam_bench.report.stats import t_interval_around

SGD = {0: 10.0, 1: 12.0, 2: 11.0}
SAM = {0: 9.0, 1: 10.0, 2: 9.5}


@pytest.mark.parametrize(
    ("interval", "margin", "verdict"),
    [
        ((-3, -0.1), 1, BETTER),
        ((-0.5, -0.1), 1, BETTER),
        ((0.1, 3), 1, WORSE),
        ((-0.9, 0.9), 1, WITHIN),
        ((-0.9, 1.0), 1, UNDECIDED),
        ((-0.9, 0.9), 0, UNDECIDED),
        ((0, 0), 1, WITHIN),
        ((-3, 2), 1, UNDECIDED),
    ],
)
def test_verdict_is_read_from_the_interval(interval, margin, verdict):
    assert verdict_of(interval, margin) == verdict


def test_margin_is_two_one_sided_tests():
    """Compare with statsmodels 0.15, `ttost_paired(a, b, -0.3, 0.3)`, p = 0.0120217644."""
    differences = np.array([-0.1, -0.2, 0.1, -0.2, 0.1])
    p, mean, error = 0.0120217644, differences.mean(), stats.sem(differences)
    low, high = t_interval_around(mean, error, 4, 1 - 2 * p)
    assert low == pytest.approx(-0.3) and high < 0.3
    assert verdict_of(t_interval_around(mean, error, 4, 1 - 2 * p - 1e-6), 0.3) == WITHIN
    assert verdict_of(t_interval_around(mean, error, 4, 1 - 2 * p + 1e-6), 0.3) == UNDECIDED


def test_one_pair_is_compared_by_hand():
    """Check differences −1, −2, −1.5: mean −1.5, standard deviation 0.5, t(0.975, 2) = 4.302652729911275."""
    difference = compare(StudyModel.of({"SGD": SGD, "SAM": SAM}), [("SAM", "SGD")])["SAM", "SGD"]
    half = 4.302652729911275 * 0.5 / math.sqrt(3)
    assert difference.mean == -1.5 and difference.seeds == 3
    assert difference.interval == pytest.approx((-1.5 - half, -1.5 + half))
    assert difference.simultaneous == pytest.approx(difference.interval)
    assert difference.p == pytest.approx(stats.ttest_rel(list(SAM.values()), list(SGD.values())).pvalue)
    assert difference.holm_p == difference.p
    assert difference.probability_better == pytest.approx(8.5 / 9)  # nine pairs of runs: one draw, the others won
    assert difference.verdict == BETTER


@pytest.mark.parametrize("count", [0, 5])
def test_family_is_corrected_for_its_number(count):
    pairs = [("SAM", "SGD"), ("WSAM", "SGD")]
    rows = {"SGD": SGD, "SAM": SAM, "WSAM": {0: 9.5, 1: 11.0, 2: 10.2}}
    differences = compare(StudyModel.of(rows), pairs, count)
    number = count or 2
    assert [differences[pair].level for pair in pairs] == [1 - 0.05 / number] * 2

    first, second = sorted(differences.values(), key=lambda difference: difference.p)
    assert first.holm_p == pytest.approx(number * first.p)
    assert second.holm_p == pytest.approx(max((number - 1) * second.p, first.holm_p))

    for difference in differences.values():
        low, high = difference.simultaneous
        assert high - low > difference.interval[1] - difference.interval[0]
        assert (difference.verdict == UNDECIDED) == (difference.p * number > 0.05)


def test_two_seeds_have_no_verdict():
    rows = {"SGD": {0: 10.0, 1: 11.0}, "SAM": {0: 9.0, 1: 10.1}}
    difference = compare(StudyModel.of(rows), [("SAM", "SGD")])["SAM", "SGD"]
    assert difference.verdict is None and math.isfinite(difference.simultaneous[0])


def test_equal_rows_have_p_of_one():
    model = StudyModel.of({"SGD": SGD, "again": SGD})
    difference = compare(model, [("again", "SGD")], margin=1)["again", "SGD"]
    assert (difference.p, difference.verdict, difference.probability_better) == (1, WITHIN, 0.5)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_counts_nan_as_a_comparison():
    first, second, third = holm([0.02, math.nan, 0.5])
    assert first == pytest.approx(0.06) and math.isnan(second) and third == 1.0
