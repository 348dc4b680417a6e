"""Tests of the additive model, against statsmodels' least squares, and of rows with a spread of their own."""

import math

import pytest
from scipy import stats

from sam_bench.report.model import AdditiveModel, StudyModel, rows_with_own_spread, spread_p

#: One run is missing, so that rows and seeds are not orthogonal.
ROWS = {
    "SGD": {0: 57.7, 1: 56.7, 2: 57.0, 3: 58.0},
    "SAM": {0: 56.2, 1: 56.1, 2: 56.2, 3: 54.3},
    "GSAM": {0: 56.6, 1: 58.6, 3: 57.5},
    "WSAM": {0: 54.9, 1: 55.0, 2: 53.3, 3: 54.2},
}


def test_fit_with_missing_run_is_ordinary_least_squares():
    """Compare with statsmodels 0.15, `ols("error ~ C(row) + C(seed)")`, and `t_test` of the contrast."""
    model = AdditiveModel.fit(ROWS)
    assert (model.freedom, model.squares) == (8, pytest.approx(6.48))
    assert model.variance == pytest.approx(0.81)
    gsam = model.difference("GSAM", "SAM")
    assert (gsam.mean, gsam.error) == pytest.approx((1.7666667, 0.7035624))
    sam = model.difference("SAM", "SGD")
    assert (sam.mean, sam.error) == pytest.approx((-1.65, 0.6363961))


def test_fit_of_full_table_by_hand():
    """Check rows 1, 3 and 2, 2: residuals ±0.5, whose squares add up to 1, with 4 − 2 − 2 + 1 degrees of freedom."""
    model = AdditiveModel.fit({"a": {0: 1.0, 1: 3.0}, "b": {0: 2.0, 1: 2.0}})
    assert (model.squares, model.freedom) == (pytest.approx(1.0), 1)
    estimate = model.difference("a", "b")
    assert (estimate.mean, estimate.error) == pytest.approx((0.0, math.sqrt(1.0 * 2 / 2)))


def test_two_rows_give_the_paired_t_test():
    pair = {"SGD": ROWS["SGD"], "SAM": ROWS["SAM"]}
    estimate = StudyModel.of(pair).difference("SAM", "SGD")
    expected = stats.ttest_rel(list(ROWS["SAM"].values()), list(ROWS["SGD"].values()))
    assert estimate.mean / estimate.error == pytest.approx(expected.statistic)
    assert estimate.freedom == expected.df == 3


@pytest.mark.parametrize(
    ("row", "p"), [("SGD", 0.9005312), ("SAM", 0.6556302), ("GSAM", 0.5898534), ("WSAM", 0.4576124)]
)
def test_spread_p_is_that_of_nested_models(row, p):
    """Compare with two statsmodels fits, with and without the row, as in R's `anova(lm, lm)`; two-sided."""
    rest = AdditiveModel.fit({other: errors for other, errors in ROWS.items() if other != row})
    assert spread_p(AdditiveModel.fit(ROWS), rest) == pytest.approx(p, abs=1e-6)


def test_one_seed_has_no_variance():
    estimate = StudyModel.of({"SGD": {0: 3.0}, "SAM": {0: 2.0}}).difference("SAM", "SGD")
    assert estimate.mean == -1 and math.isnan(estimate.error) and estimate.freedom == 0


#: The noise of five rows, by seed.
NOISE = [
    [0.1, -0.3, 0.2, 0.4, -0.4],
    [-0.2, 0.3, 0.1, -0.4, 0.2],
    [0.3, 0.1, -0.4, 0.1, -0.1],
    [-0.1, -0.2, 0.4, 0.2, -0.3],
    [0.2, 0.2, -0.1, -0.3, 0.0],
]


def rows_of_noise(factors: list[float]) -> dict[str, dict[int, float]]:
    """Return rows that share the seeds' effects, with noise times the row's factor."""
    return {
        f"row {i}": {seed: 50 + i + 2 * seed + factor * noise for seed, noise in enumerate(NOISE[i])}
        for i, factor in enumerate(factors)
    }


@pytest.mark.parametrize(
    ("factors", "own"),
    [
        ([1, 1, 1, 1, 1], []),
        ([1, 10, 1, 1, 1], ["row 1"]),
        ([1, 10, 1, 40, 1], ["row 3", "row 1"]),
        ([1, 10], []),
    ],
)
def test_rows_with_other_spread_are_own(factors, own):
    assert rows_with_own_spread(rows_of_noise(factors)) == own


def test_own_spread_is_compared_pair_by_pair():
    rows = rows_of_noise([1, 10, 1, 1, 1])
    model = StudyModel.of(rows)
    assert model.own == ["row 1"] and model.pooled.freedom == 3 * 4

    pooled = model.difference("row 2", "row 0")
    assert pooled.is_pooled and pooled.freedom == 12

    own = model.difference("row 1", "row 0")
    expected = stats.ttest_rel(list(rows["row 1"].values()), list(rows["row 0"].values()))
    assert not own.is_pooled and own.freedom == 4
    assert own.mean / own.error == pytest.approx(expected.statistic)
