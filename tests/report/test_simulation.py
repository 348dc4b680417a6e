"""Tests of error rates and coverage by simulation: unequal spread, correlated seeds, three to ten seeds."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from sam_bench.report.differences import BETTER, WITHIN, WORSE, compare
from sam_bench.report.model import StudyModel

TABLES = 200

#: The standard error of a rate of 5 % over so many tables.
ERROR = math.sqrt(0.05 * 0.95 / TABLES)

#: The noise of all rows is equal.
EQUAL = (1.0,) * 7

#: The reference is twice as noisy as all others.
NOISY_REFERENCE = (2.0, *(1.0,) * 6)

#: The noise of rows goes from half to twice.
SPREAD = tuple(np.geomspace(0.5, 2, 7))


@dataclass(frozen=True)
class Rates:
    """Rates over simulated tables, or over their comparisons.

    Args:
        covered: tables in which all simultaneous intervals have the true differences.
        one_covered: intervals of one comparison by itself that have the true difference.
        false_claims: tables with any false verdict.
        width: the mean half width of a simultaneous interval, in residual standard deviations.
    """

    covered: float
    one_covered: float
    false_claims: float
    width: float


def simulate(spreads, seeds: int, true=None, correlation: float = 0, margin: float = 0, tables: int = TABLES) -> Rates:
    """Simulate tables whose rows are each compared with the first.

    Args:
        spreads: the standard deviation of each row's own noise.
        true: the true means of the rows.
        correlation: the standard deviation of noise that the second half of the rows shares by seed, in addition to
            that which all rows share.
    """
    rng = np.random.default_rng(0)
    rows = len(spreads)
    true = np.zeros(rows) if true is None else np.asarray(true, dtype=float)
    pairs = [(row, 0) for row in range(1, rows)]

    covered, one_covered, false_claims, widths = [], [], [], []
    for _ in range(tables):
        # Every table has noise that all rows share, that of each row, and that of the second half.
        errors = true[:, None] + rng.normal(0, 2, (1, seeds)) + rng.normal(0, np.transpose([spreads]), (rows, seeds))
        errors[rows // 2 :] += rng.normal(0, correlation, (1, seeds))
        model = StudyModel.of({row: dict(enumerate(of_row)) for row, of_row in enumerate(errors)})

        are_covered, are_false = [], []
        for (row, _), estimated in compare(model, pairs, margin=margin).items():
            difference = true[row] - true[0]
            are_covered.append(estimated.simultaneous[0] <= difference <= estimated.simultaneous[1])
            are_false.append(is_false(estimated.verdict, difference, margin))
            one_covered.append(estimated.interval[0] <= difference <= estimated.interval[1])
            widths.append(estimated.simultaneous[1] - estimated.mean)
        covered.append(all(are_covered))
        false_claims.append(any(are_false))

    return Rates(np.mean(covered), np.mean(one_covered), np.mean(false_claims), np.mean(widths))


def is_false(verdict: str, difference: float, margin: float) -> bool:
    """Return True if a verdict is wrong about the true difference."""
    claims = {BETTER: difference < 0, WORSE: difference > 0, WITHIN: abs(difference) < margin}
    return not claims.get(verdict, True)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_spread_claims_little_and_covers(seeds):
    rates = simulate(EQUAL, seeds, true=[0, 0, 0, 0.5, -0.5, 2, -4], margin=1)
    assert rates.covered > 0.95 - 3 * ERROR
    assert rates.one_covered == pytest.approx(0.95, abs=0.02)
    assert rates.false_claims < 0.05 + 3 * ERROR


@pytest.mark.parametrize("spreads", [NOISY_REFERENCE, SPREAD])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_unequal_spread_claims_little(seeds, spreads):
    """Check for at most one table in ten; that is reached with three seeds and a reference twice as noisy."""
    assert simulate(spreads, seeds).false_claims < 0.10 + 3 * ERROR


@pytest.mark.parametrize("seeds", [3, 10])
def test_correlated_seeds_claim_little(seeds):
    """Check rows that share noise as large as their own, which the reference does not have."""
    assert simulate(EQUAL, seeds, correlation=1.0).false_claims < 0.10 + 3 * ERROR


def test_differences_at_the_margin_are_rarely_within():
    rates = simulate((0.3,) * 7, 5, true=[0, 1, -1, 1, -1, 1, -1], margin=1)
    assert rates.false_claims < 0.05 + 3 * ERROR


def test_pooling_narrows_intervals():
    """Compare seven rows of five seeds, with 24 degrees of freedom, and a pair alone, with 4."""
    pooled, pair = simulate(EQUAL, 5), simulate(EQUAL[:2], 5)
    assert pair.width / pooled.width > 0.75  # although the pair alone has no correction
    assert pooled.width == pytest.approx(1.9, abs=0.1)
