"""One estimate from several studies: random effects, for few studies whose differences may truly differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from sam_bench.report.differences import Interval, verdict_of
from sam_bench.report.stats import t_interval_around

#: With fewer studies there is no pooled estimate: of two, it would reach six times their distance to either side.
FEWEST_STUDIES = 3


@dataclass(frozen=True)
class Pooled:
    """The mean of a difference over studies, in points; below 0 the row is better.

    Args:
        error: its standard error.
        scatter: the standard deviation τ of the true differences between studies.
        inconsistency: I², the share of the variation between studies that is not their own error, from 0 to 1.
        studies: the number of independent estimates.
        margin: differences up to so many points do not matter.
    """

    mean: float
    error: float
    scatter: float
    inconsistency: float
    studies: int
    margin: float = 0

    @property
    def interval(self) -> Interval:
        """Return the 95 % interval of this mean by itself, with one degree of freedom less than there are studies."""
        return t_interval_around(self.mean, self.error, self.studies - 1)

    @property
    def verdict(self) -> str:
        return verdict_of(self.interval, self.margin)


def pool(estimates: Sequence[tuple[float, float]], margin: float = 0) -> Pooled:
    """Return the random-effects estimate from each independent study's difference and its standard error.

    The variance τ² between studies is Paule and Mandel's (1982): the one at which Q(τ²), the weighted sum of squares
    around the mean with weights 1 / (error² + τ²), equals its expectation k − 1, or 0 if Q(0) is less. It assumes no
    normal distribution, has one root, and is recommended for few studies (Veroniki et al., 2016,
    doi:10.1002/jrsm.1164). The interval is that of Hartung, Knapp, Sidik and Jonkman, never narrower than with τ known
    (Röver, Knapp and Friede, 2015, doi:10.1186/s12874-015-0091-1). At Paule and Mandel's τ² it is the mean
    ± t(k − 1) / √Σ weights.

    Raises:
        ValueError: there are fewer than two studies.
    """
    if len(estimates) < 2:
        raise ValueError("a pooled estimate needs at least two studies")
    values, errors = np.array(estimates, dtype=float).T
    variances = errors**2
    expected = len(values) - 1

    def excess(between: float) -> float:
        return _squares(values, 1 / (variances + between)) - expected

    # With τ² at twice the squared range, Q cannot be above k / 2, which is at most k − 1.
    most = 2 * float(np.ptp(values)) ** 2
    between = float(optimize.brentq(excess, 0, most)) if excess(0) > 0 else 0.0

    weights = 1 / (variances + between)
    mean = float(weights @ values / weights.sum())
    squares = _squares(values, 1 / variances)
    inconsistency = max(0.0, 1 - expected / squares) if squares > 0 else 0.0
    error = 1 / math.sqrt(weights.sum())
    return Pooled(mean, error, math.sqrt(between), inconsistency, len(values), margin)


def _squares(values: np.ndarray, weights: np.ndarray) -> float:
    """Return Cochran's Q: the weighted sum of squares around the weighted mean."""
    return float(weights @ np.square(values - weights @ values / weights.sum()))
