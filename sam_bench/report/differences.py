"""Differences between rows: simultaneous intervals of a family, and the four verdicts that are read from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sam_bench.report.model import Errors, Estimate, K, StudyModel
from sam_bench.report.stats import t_interval_around

#: The verdicts: on the row against its baseline, read from an interval by `verdict_of`.
BETTER, WORSE, WITHIN, UNDECIDED = VERDICTS = ("better", "worse", "within the margin", "undecided")

#: The probability that a family of comparisons makes any false claim.
ALPHA = 0.05

#: With fewer seeds there is no verdict: errors have two decimals, so two differences may be equal by chance.
FEWEST_SEEDS = 3

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """A row's error minus its baseline's, in points; below 0 the row is better.

    Args:
        estimate: the difference with its standard error.
        seeds: the number of common seeds.
        probability_better: the probability that a run of the row has a lower error than one of the baseline, ties
            counting half, over all pairs of runs (Agarwal et al., 2021, arXiv:2108.13264).
        p: the p-value of the two-sided t-test that there is no difference; NaN if the spread is unknown.
        holm_p: Holm's p-value over the family.
        level: the level at which all intervals of the family hold together (Bonferroni).
        margin: differences up to so many points do not matter; 0 if no margin was fixed.
    """

    estimate: Estimate
    seeds: int
    probability_better: float
    p: float
    holm_p: float
    level: float
    margin: float

    @property
    def mean(self) -> float:
        return self.estimate.mean

    @property
    def interval(self) -> Interval:
        """Return the 95 % interval of this comparison by itself."""
        return t_interval_around(self.mean, self.estimate.error, self.estimate.freedom)

    @property
    def simultaneous(self) -> Interval:
        """Return the interval at `level`, from which the verdict is read."""
        return t_interval_around(self.mean, self.estimate.error, self.estimate.freedom, self.level)

    @property
    def verdict(self) -> str | None:
        """Return one of `VERDICTS`; None for fewer than `FEWEST_SEEDS` seeds."""
        return verdict_of(self.simultaneous, self.margin) if self.seeds >= FEWEST_SEEDS else None


def verdict_of(interval: Interval, margin: float) -> str:
    """Return the verdict on a difference: one rule, so that no verdict contradicts its interval.

    An interval below 0 is "better", one above 0 "worse". Else, one that lies within ±margin is "within the margin":
    that is two one-sided tests, each at half of one minus the interval's level (Schuirmann, 1987). A pair makes a false
    claim only if its interval misses the true difference, so a family's claims, of either kind, hold together as its
    intervals do.
    """
    low, high = interval
    if high < 0:
        return BETTER
    if low > 0:
        return WORSE
    return WITHIN if -margin < low and high < margin else UNDECIDED


def compare(
    model: StudyModel[K], pairs: Sequence[tuple[K, K]], count: int = 0, margin: float = 0
) -> dict[tuple[K, K], Difference]:
    """Compare the pairs of one family, each a row and its baseline.

    Args:
        pairs: pairs of the model's rows that have a common seed.
        count: the number of comparisons to correct for, if some have no runs yet.
        margin: differences up to so many points do not matter.
    """
    count = max(len(pairs), count)
    estimates = {pair: model.difference(*pair) for pair in pairs}
    p = {pair: t_test_p(each) for pair, each in estimates.items()}
    adjusted = dict(zip(p, holm([*p.values(), *[math.nan] * (count - len(pairs))]), strict=False))

    differences = {}
    for (row, base), estimate in estimates.items():
        errors, base_errors = model.errors[row], model.errors[base]
        differences[row, base] = Difference(
            estimate=estimate,
            seeds=len(errors.keys() & base_errors.keys()),
            probability_better=probability_better(errors, base_errors),
            p=p[row, base],
            holm_p=adjusted[row, base],
            level=1 - ALPHA / count,
            margin=margin,
        )
    return differences


def t_test_p(estimate: Estimate) -> float:
    """Return the p-value of the two-sided t-test that a difference is 0; NaN if the spread is unknown."""
    if math.isnan(estimate.error):
        return math.nan
    if estimate.error == 0:
        return 1.0 if estimate.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(estimate.mean) / estimate.error, estimate.freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p-values, in the order of `p`; NaN stays NaN, and counts as a comparison."""
    order = sorted(range(len(p)), key=lambda i: math.inf if math.isnan(p[i]) else p[i])
    adjusted = [math.nan] * len(p)

    greatest = 0.0
    for place, i in enumerate(order):
        if not math.isnan(p[i]):
            greatest = max(greatest, min(1.0, (len(p) - place) * p[i]))
            adjusted[i] = greatest
    return adjusted


def probability_better(errors: Errors, base: Errors) -> float:
    """Return the share of pairs of runs, of equal seeds or not, in which the row's error is lower; ties count half."""
    wins = np.sign(np.subtract.outer(list(base.values()), list(errors.values())))
    return float(1 + wins.mean()) / 2
