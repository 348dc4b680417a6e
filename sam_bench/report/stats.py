"""The interval of a mean, and rank correlations with bootstrap intervals."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K", bound=Hashable)


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided confidence interval of the mean under Student's t; NaN, NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    return t_interval_around(float(np.mean(values)), float(stats.sem(values)), len(values) - 1, level)


def t_interval_around(mean: float, error: float, freedom: float, level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided interval mean ± t · standard error; NaN, NaN without degrees of freedom."""
    if freedom < 1:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return mean - half, mean + half


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of two quantities, with a bootstrap interval.

    Args:
        value: from −1 to 1; NaN, like the interval, if there is too little data.
        low, high: the ends of the percentile bootstrap's 95 % interval. NaN also in perfect order, since then all draws
            are in perfect order too, however few the data.
        groups, runs: the numbers of groups and runs that it is computed from.
    """

    value: float
    low: float
    high: float
    groups: int
    runs: int


#: Two quantities of each run of a group.
Points = Sequence[tuple[float, float]]

#: With fewer groups there is no correlation across them: five are in perfect order by chance once in sixty times.
FEWEST_GROUPS = 8

#: Groups with fewer runs are left out of the correlation within groups, which needs `FEWEST_GROUPS` runs in all.
FEWEST_RUNS = 4


def correlation_across(groups: Mapping[K, Points], resamples: int = 9999, seed: int = 0) -> Correlation:
    """Return the rank correlation of the groups' means; the bootstrap draws groups."""
    means = np.array([np.mean(points, axis=0) for points in groups.values() if len(points)]).reshape(-1, 2)
    runs = sum(map(len, groups.values()))
    if len(means) < FEWEST_GROUPS or not np.ptp(means, axis=0).all():
        return Correlation(math.nan, math.nan, math.nan, len(means), runs)
    drawn = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    return _correlation(float(_spearman(means)), _spearman(means[drawn]), len(means), runs)


def correlation_within(groups: Mapping[K, Points], resamples: int = 9999, seed: int = 0) -> Correlation:
    """Return the mean of the groups' rank correlations, weighted by their runs; the bootstrap draws runs in each group.

    The runs of a group must be independent, like the seeds of one configuration, or the means of several.
    """
    # A group in which one of the quantities is constant has no rank correlation.
    generator = np.random.default_rng(seed)
    large = [np.array(points) for points in groups.values() if len(points) >= FEWEST_RUNS]
    large = [points for points in large if np.ptp(points, axis=0).all()]
    sizes = np.array([len(points) for points in large])
    if sizes.sum() < FEWEST_GROUPS:
        return Correlation(math.nan, math.nan, math.nan, len(large), int(sizes.sum()))

    value = np.average([_spearman(points) for points in large], weights=sizes)
    drawn = np.stack(
        [_spearman(points[generator.integers(len(points), size=(resamples, len(points)))]) for points in large]
    )

    # A draw in which a quantity is constant has no rank correlation either, and gets no weight.
    weights = np.where(np.isnan(drawn), 0, sizes[:, None])
    means = np.nansum(drawn * weights, axis=0) / np.where(weights.any(0), weights.sum(0), np.nan)
    return _correlation(float(value), means, len(large), int(sizes.sum()))


def _spearman(points: np.ndarray) -> np.ndarray:
    """Return the rank correlation of two quantities along n; NaN where one of them is constant.

    Args:
        points: … × n × 2.
    """
    ranked = stats.rankdata(points, axis=-2)
    x, y = np.moveaxis(ranked - ranked.mean(-2, keepdims=True), -1, 0)
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), spread, out=np.full_like(spread, np.nan), where=spread > 0)


def _correlation(value: float, drawn: np.ndarray, groups: int, runs: int) -> Correlation:
    if math.isclose(abs(value), 1):
        return Correlation(value, math.nan, math.nan, groups, runs)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Correlation(value, float(low), float(high), groups, runs)
