"""Golden values by hand and by SciPy; and, simulated, that intervals cover and that nothing is claimed of nothing."""

import math

import numpy as np
import pytest
from scipy import stats

from sam_bench.report.stats import (
    Paired,
    compare,
    correlation_across,
    correlation_within,
    holm,
    ranks,
    t_interval,
)

SGD = {0: 10.0, 1: 12.0, 2: 11.0}
SAM = {0: 9.0, 1: 10.0, 2: 9.5}
WORSE = {0: 20.0, 1: 22.5, 2: 21.0}


def test_a_paired_comparison_by_hand():
    found = compare({"sam": (SAM, SGD)})["sam"]
    assert found.differences == (-1.0, -2.0, -1.5)
    assert found.mean == -1.5
    half = 4.302652729911275 * 0.5 / math.sqrt(3)
    assert found.interval == pytest.approx((-1.5 - half, -1.5 + half))
    assert found.corrected_interval == found.interval  # of one comparison
    assert found.p == pytest.approx(stats.ttest_rel(list(SAM.values()), list(SGD.values())).pvalue)
    assert found.adjusted_p == found.p
    assert found.better == pytest.approx(8.5 / 9)  # nine pairs: one draw, the others won
    assert found.separated and found.verdict == "better"


def test_several_comparisons_are_corrected_for_their_number():
    found = compare({"sam": (SAM, SGD), "worse": (WORSE, SGD), "same": (SGD, SGD)})
    assert {name: each.level for name, each in found.items()} == {
        name: pytest.approx(1 - 0.05 / 3) for name in ("sam", "worse", "same")
    }
    low, high = found["sam"].corrected_interval
    assert (low, high) == pytest.approx(t_interval(found["sam"].differences, 1 - 0.05 / 3))
    assert low < found["sam"].interval[0] and high > found["sam"].interval[1]
    assert [found[name].adjusted_p for name in ("sam", "worse", "same")] == pytest.approx(
        holm([found[name].p for name in ("sam", "worse", "same")])
    )
    assert found["worse"].verdict == "worse" and found["worse"].better == 0
    assert found["same"].verdict == "not separated" and found["same"].better == 0.5 and found["same"].p == 1


def test_holms_p_values_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    with_none = holm([0.02, math.nan, 0.5])
    assert with_none[0] == pytest.approx(0.06) and math.isnan(with_none[1]) and with_none[2] == 1.0
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (2.0, 5)])
def test_seeds_needed_are_those_of_the_tables_of_power(effect, seeds):
    """Of a paired t-test at 5 %, two-sided, with a power of 80 %: Cohen (1988), table 2.4.1; G*Power."""
    scattered = np.array([-1.0, 0.0, 1.0]) + effect
    assert Paired(tuple(scattered), 0.5, 0.5, 0.5, 0.95).seeds_needed == pytest.approx(seeds, abs=1)


def test_the_seeds_needed_would_separate_the_two_as_often_as_is_said():
    rng = np.random.default_rng(0)
    paired = Paired((-0.1, -1.0, -1.3), 0.5, 0.5, 0.5, 0.99)
    assert paired.verdict == "not separated"
    drawn = rng.normal(paired.mean, np.std(paired.differences, ddof=1), (4000, paired.seeds_needed))
    separated = [Paired(tuple(each), 0.5, 0.5, 0.5, 0.99).separated for each in drawn]
    assert 0.78 < np.mean(separated) < 0.9


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="sam has no seed in common with its baseline"):
        compare({"sam": ({7: 1.0}, SGD)})
    with pytest.raises(ValueError, match="sam: an error is not finite"):
        compare({"sam": (SAM | {3: math.nan}, SGD)})
    with pytest.raises(ValueError, match="no seed in common"):
        ranks({"sgd": SGD, "sam": {7: 1.0}})


def test_one_seed_tells_a_difference_and_no_more():
    found = compare({"sam": ({0: 9.0}, {0: 10.0})})["sam"]
    assert found.mean == -1 and not found.separated and found.seeds_needed is None
    assert math.isnan(found.p) and math.isnan(found.adjusted_p) and math.isnan(found.bootstrap_interval()[0])


def test_the_bootstraps_interval_is_scipys():
    differences = tuple(np.random.default_rng(1).normal(0.3, 1.0, 20))
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(5)
    ).confidence_interval
    assert Paired(differences, 0.5, 0.5, 0.5, 0.95).bootstrap_interval() == pytest.approx(tuple(expected), abs=0.03)


def test_ranks_are_as_certain_as_the_seeds_are_agreed():
    clear = {"a": SAM, "b": SGD, "c": WORSE}
    assert ranks(clear) == {"a": (1, 1, 1), "b": (2, 2, 2), "c": (3, 3, 3)}
    open_ = ranks({"a": {0: 1.0, 1: 3.0}, "b": {0: 2.0, 1: 1.9}, "c": {0: 9.0, 1: 9.0}})
    assert open_["b"][0] == 1 and open_["a"] == (2, 1, 2) and open_["c"] == (3, 3, 3)
    assert ranks({"a": SGD, "b": SGD})["a"] == (1.5, 1.5, 1.5)


SEEDS, TABLES, METHODS = 5, 1000, 4


def simulated(differences: np.ndarray) -> list[dict[int, Paired]]:
    """Tables of five seeds whose runs share a part of their noise, with these true differences to the baseline."""
    rng = np.random.default_rng(0)
    shared = rng.normal(50, 1.0, (TABLES, 1, SEEDS))
    errors = shared + rng.normal(0, 0.5, (TABLES, 1 + len(differences), SEEDS))
    errors[:, 1:] += differences[:, None]
    return [
        compare({i: (dict(enumerate(row)), dict(enumerate(table[0]))) for i, row in enumerate(table[1:])})
        for table in errors
    ]


def test_with_no_difference_few_tables_claim_one():
    claims = sum(any(each.separated for each in table.values()) for table in simulated(np.zeros(METHODS)))
    assert claims / TABLES < 0.05 + 3 * math.sqrt(0.05 * 0.95 / TABLES)
    assert claims / TABLES > 0.02  # nor is the correction a waste


def test_intervals_cover_the_true_differences_as_often_as_they_say():
    true = np.array([-2.0, -0.3, 0.0, 1.0])
    one_by_one, together = [], []
    for table in simulated(true):
        inside = [
            low <= d <= high for (low, high), d in zip((each.interval for each in table.values()), true, strict=True)
        ]
        corrected = [each.corrected_interval for each in table.values()]
        one_by_one += inside
        together.append(all(low <= d <= high for (low, high), d in zip(corrected, true, strict=True)))
    assert np.mean(one_by_one) == pytest.approx(0.95, abs=0.01)
    assert 0.95 - 3 * math.sqrt(0.05 * 0.95 / TABLES) < np.mean(together) < 0.99


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
