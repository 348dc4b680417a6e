"""The model of a study's errors: row + seed, with one residual variance, and rows that keep their own.

Every row has the same seeds, so a seed is a block: what it does to all rows alike cancels in a difference. What is left
is estimated over all rows together, which gives it more degrees of freedom than a single pair has.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K", bound=Hashable)

#: A row's errors in percent, by seed.
Errors = Mapping[int, float]

#: A row keeps its own spread if its F test has a p-value below this.
OWN_SPREAD = 0.05

#: Residuals are rounded to so many decimals, below which there is nothing but the rounding of floats.
DECIMALS = 9


@dataclass(frozen=True)
class Estimate:
    """An estimated difference between two rows in points.

    Args:
        error: its standard error; NaN if the spread is unknown.
        freedom: the degrees of freedom of the standard error.
        is_pooled: whether the spread is that of all rows, not that of the pair alone.
    """

    mean: float
    error: float
    freedom: int
    is_pooled: bool


@dataclass(frozen=True, eq=False)
class AdditiveModel(Generic[K]):
    """The least-squares fit of error = row + seed; runs may be missing.

    Args:
        design: a line for each run, with a 1 in the column of its row and in that of its seed.
        errors: the error of each run.
        squares: the sum of the squared residuals.
        freedom: runs − rows − seeds + 1, if all rows are connected by common seeds.
    """

    rows: tuple[K, ...]
    design: np.ndarray
    errors: np.ndarray
    squares: float
    freedom: int

    @classmethod
    def fit(cls, errors: Mapping[K, Errors]) -> "AdditiveModel[K]":
        """Fit the model to the errors of each row by seed."""
        seeds = sorted({seed for row in errors.values() for seed in row})
        runs = [(i, seeds.index(seed), error) for i, row in enumerate(errors.values()) for seed, error in row.items()]

        values = np.array([error for *_, error in runs])
        design = np.zeros((len(runs), len(errors) + len(seeds)))
        lines = range(len(runs))
        design[lines, [row for row, *_ in runs]] = 1
        design[lines, [len(errors) + seed for _, seed, _ in runs]] = 1

        effects, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
        residuals = np.round(values - design @ effects, DECIMALS)
        return cls(tuple(errors), design, values, float(residuals @ residuals), len(runs) - int(rank))

    @property
    def variance(self) -> float:
        """Return the residual variance; NaN without degrees of freedom."""
        return self.squares / self.freedom if self.freedom > 0 else math.nan

    def difference(self, row: K, baseline: K) -> Estimate:
        """Return the best linear unbiased estimate of row − baseline, two rows with a common seed."""
        contrast = np.zeros(self.design.shape[1])
        contrast[[self.rows.index(row), self.rows.index(baseline)]] = 1, -1

        # The estimate is the sum of the errors with the smallest weights that leave nothing but the difference.
        weights = np.linalg.lstsq(self.design.T, contrast, rcond=None)[0]
        mean = round(float(weights @ self.errors), DECIMALS)
        return Estimate(mean, math.sqrt(self.variance * float(weights @ weights)), self.freedom, True)


@dataclass(frozen=True, eq=False)
class StudyModel(Generic[K]):
    """The models of a study: one for the rows that share a spread, and each pair's own for all others.

    Args:
        errors: the errors of all rows.
        pooled: the additive model of the rows that share a spread.
    """

    errors: Mapping[K, Errors]
    pooled: AdditiveModel[K]

    @classmethod
    def of(cls, errors: Mapping[K, Errors]) -> "StudyModel[K]":
        """Fit a study's rows, after those that keep their own spread have been set apart."""
        own = rows_with_own_spread(errors)
        return cls(errors, AdditiveModel.fit({row: each for row, each in errors.items() if row not in own}))

    @property
    def own(self) -> list[K]:
        """Return the rows that keep their own spread."""
        return [row for row in self.errors if row not in self.pooled.rows]

    def difference(self, row: K, baseline: K) -> Estimate:
        """Return the estimate of row − baseline: a paired one over common seeds if either keeps its own spread."""
        if {row, baseline} <= set(self.pooled.rows):
            return self.pooled.difference(row, baseline)
        common = self.errors[row].keys() & self.errors[baseline].keys()
        pair = AdditiveModel.fit({each: {s: self.errors[each][s] for s in common} for each in (row, baseline)})
        estimate = pair.difference(row, baseline)
        return Estimate(estimate.mean, estimate.error, estimate.freedom, False)


def spread_p(whole: AdditiveModel[K], rest: AdditiveModel[K]) -> float:
    """Return the p-value of the two-sided F test that a row has the residual variance of the other rows.

    The test compares what the row adds to the sum of squared residuals with that sum without the row, each over its
    degrees of freedom: F = ((S − S₋) / (f − f₋)) / (S₋ / f₋). The two are independent, so F is exact, whatever runs are
    missing (the F test of nested linear models, as in R's `anova(lm, lm)`). 1 if there are too few runs to test.

    Args:
        whole: the model of all rows.
        rest: the model without the row.
    """
    freedom = whole.freedom - rest.freedom
    if freedom < 1 or rest.freedom < 1 or rest.squares == 0:
        return 1.0
    ratio = (whole.squares - rest.squares) / freedom / rest.variance
    upper = float(stats.f.sf(ratio, freedom, rest.freedom))
    return 2 * min(upper, 1 - upper)


def rows_with_own_spread(errors: Mapping[K, Errors]) -> list[K]:
    """Return the rows whose spread clearly differs, the oddest first.

    The row with the least p-value of `spread_p` is set apart if it is below `OWN_SPREAD`. Then the rest is tested again
    without it, as long as there are three rows.
    """
    kept = dict(errors)
    own: list[K] = []
    while len(kept) >= 3:
        whole = AdditiveModel.fit(kept)
        p = {row: spread_p(whole, AdditiveModel.fit(_without(kept, row))) for row in kept}
        oddest = min(p, key=lambda row: p[row])
        if p[oddest] >= OWN_SPREAD:
            break
        own.append(oddest)
        kept = _without(kept, oddest)
    return own


def _without(errors: Mapping[K, Errors], row: K) -> dict[K, Errors]:
    return {other: each for other, each in errors.items() if other != row}
