"""The statistics of the tables: intervals, paired comparisons corrected for their number, ranks, correlations."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K", bound=Hashable)

Errors = Mapping[int, float]
"""A row's errors in percent, by seed."""

POWER = 0.8
"""With what probability `seeds_needed` seeds would separate two rows whose difference is the one that was found."""

FEWEST_SEEDS = 3
"""With fewer no verdict is given: of two seeds the differences may be equal by chance, as errors have two decimals."""

MOST_SEEDS = 10_000
"""More than anybody runs."""


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The two-sided confidence interval of the mean under Student's t; NaN, NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = np.mean(values)
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


@dataclass(frozen=True)
class Paired:
    """A row minus its baseline, seed by seed: below 0 it is better.

    Args:
        differences: in points, one for each seed that both have.
        better: the probability that a run of the row has a lower error than one of the baseline, a draw counting as
            half: the share of such pairs, of any seeds (Agarwal et al., 2021, arXiv:2108.13264).
        p: of a paired two-sided t-test; NaN for fewer than two seeds.
        adjusted_p: Holm's, over all comparisons of its family; to be held against 0.05.
        level: of the corrected interval.
    """

    differences: tuple[float, ...]
    better: float
    p: float
    adjusted_p: float
    level: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def interval(self) -> tuple[float, float]:
        """Student's, at 95 %, for this comparison by itself."""
        return t_interval(self.differences)

    @property
    def corrected_interval(self) -> tuple[float, float]:
        """Student's at `level`: with 95 % all differences of the family lie in theirs (Bonferroni)."""
        return t_interval(self.differences, self.level)

    @property
    def separated(self) -> bool:
        """Whether the corrected interval of `FEWEST_SEEDS` or more excludes 0."""
        low, high = self.corrected_interval
        return len(self.differences) >= FEWEST_SEEDS and (low > 0 or high < 0)

    @property
    def seeds_needed(self) -> int | None:
        """About how many seeds would separate the two, with probability `POWER`, if difference and spread are these.

        None where no number up to `MOST_SEEDS` would, or there are too few seeds to tell a spread.
        """
        if len(self.differences) < FEWEST_SEEDS or self.mean == 0:
            return None
        spread = float(np.std(self.differences, ddof=1))
        return 2 if spread == 0 else _seeds_for(abs(self.mean) / spread, 1 - self.level)

    @property
    def verdict(self) -> str | None:
        """In a word: "better", "worse", or "not separated"; None for fewer than `FEWEST_SEEDS`."""
        if len(self.differences) < FEWEST_SEEDS:
            return None
        if self.separated:
            return "better" if self.mean < 0 else "worse"
        return "not separated"

    def bootstrap_interval(self, level: float = 0.95, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
        """The percentile bootstrap's interval of the mean difference; NaN, NaN for fewer than two seeds.

        With few seeds it is narrower than it should be, and Student's is the one to go by.
        """
        if len(self.differences) < 2:
            return math.nan, math.nan
        resampled = np.random.default_rng(seed).choice(self.differences, (resamples, len(self.differences)))
        low, high = np.quantile(resampled.mean(1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def compare(pairs: Mapping[K, tuple[Errors, Errors]], count: int | None = None, alpha: float = 0.05) -> dict[K, Paired]:
    """Compare rows with their baselines on the seeds that both have; intervals and p are corrected for all together.

    Args:
        pairs: a row's errors and its baseline's, by any name.
        count: of how many comparisons these are those that could be made; None for all.
        alpha: the probability that any of them claims a difference where there is none.

    Raises:
        ValueError: the two have no seed in common, or an error is not finite.
    """
    differences = {}
    for name, (errors, base) in pairs.items():
        if not all(math.isfinite(error) for error in (*errors.values(), *base.values())):
            raise ValueError(f"{name}: an error is not finite; leave out what has diverged")
        if not errors.keys() & base.keys():
            raise ValueError(f"{name} has no seed in common with its baseline")
        differences[name] = tuple(errors[seed] - base[seed] for seed in sorted(errors.keys() & base.keys()))
    p = {name: _paired_p(each) for name, each in differences.items()}
    count = max(len(pairs), count or 0, 1)
    level = 1 - alpha / count
    missing = [math.nan] * (count - len(pairs))
    of_five_percent = [min(0.05 / alpha * each, 1.0) for each in holm([*p.values(), *missing])]
    adjusted = dict(zip(p, of_five_percent, strict=False))
    return {
        name: Paired(differences[name], _better(errors, base), p[name], adjusted[name], level)
        for name, (errors, base) in pairs.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order of those given; NaN stays, and counts as a comparison."""
    order = sorted(range(len(p)), key=lambda i: math.inf if math.isnan(p[i]) else p[i])
    adjusted = [math.nan] * len(p)
    greatest = 0.0
    for place, i in enumerate(order):
        if not math.isnan(p[i]):
            greatest = max(greatest, min(1.0, (len(p) - place) * p[i]))
            adjusted[i] = greatest
    return adjusted


def ranks(
    rows: Mapping[str, Errors], level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Each row's rank by its mean error, 1 the best, with the interval of a bootstrap over the seeds that all have.

    Raises:
        ValueError: there is no such seed.
    """
    common = sorted(set.intersection(*(set(errors) for errors in rows.values())))
    if not common:
        raise ValueError("the rows have no seed in common")
    errors = np.array([[row[each] for each in common] for row in rows.values()])
    drawn = np.random.default_rng(seed).integers(len(common), size=(resamples, len(common)))
    resampled = stats.rankdata(errors[:, drawn].mean(2), axis=0)
    found = stats.rankdata(errors.mean(1))
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return {name: (float(found[i]), float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(rows)}


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of two quantities, with the interval of a bootstrap.

    Args:
        value: from −1 to 1; NaN where there is too little to tell, as are then the ends of the interval.
        low, high: the percentile bootstrap's, at 95 %; NaN also where everything is in perfect order, as all draws of
            it are then too, however few there are.
        groups, runs: how many it is of.
    """

    value: float
    low: float
    high: float
    groups: int
    runs: int


Points = Sequence[tuple[float, float]]
"""Two quantities of each of a group's runs."""

FEWEST_GROUPS = 8
"""With fewer, no correlation across groups is told: five are in perfect order by chance once in sixty times."""

FEWEST_RUNS = 4
"""Groups with fewer runs have no part in the correlation within groups; `FEWEST_GROUPS` runs are needed in all."""


def correlation_across(groups: Mapping[K, Points], resamples: int = 9999, seed: int = 0) -> Correlation:
    """The rank correlation of the groups' means; the bootstrap draws groups."""
    means = np.array([np.mean(points, axis=0) for points in groups.values() if len(points)]).reshape(-1, 2)
    runs = sum(map(len, groups.values()))
    if len(means) < FEWEST_GROUPS or not np.ptp(means, axis=0).all():
        return Correlation(math.nan, math.nan, math.nan, len(means), runs)
    drawn = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    return _correlation(float(_spearman(means)), _spearman(means[drawn]), len(means), runs)


def correlation_within(groups: Mapping[K, Points], resamples: int = 9999, seed: int = 0) -> Correlation:
    """The mean of the groups' rank correlations, each counting by its runs; the bootstrap draws runs in each group.

    Runs of a group must not depend on each other, as the seeds of one configuration do not, or the means of several.
    """
    generator = np.random.default_rng(seed)
    large = [np.array(points) for points in groups.values() if len(points) >= FEWEST_RUNS]
    large = [points for points in large if np.ptp(points, axis=0).all()]  # else there is nothing to be in order
    sizes = np.array([len(points) for points in large])
    if sizes.sum() < FEWEST_GROUPS:
        return Correlation(math.nan, math.nan, math.nan, len(large), int(sizes.sum()))
    found = np.average([_spearman(points) for points in large], weights=sizes)
    drawn = np.stack(
        [_spearman(points[generator.integers(len(points), size=(resamples, len(points)))]) for points in large]
    )
    weights = np.where(np.isnan(drawn), 0, sizes[:, None])  # a draw of one run alone has no order
    means = np.nansum(drawn * weights, axis=0) / np.where(weights.any(0), weights.sum(0), np.nan)
    return _correlation(float(found), means, len(large), int(sizes.sum()))


def _spearman(points: np.ndarray) -> np.ndarray:
    """Of … × n × 2 numbers the rank correlation along n; NaN where one of the two is constant."""
    ranked = stats.rankdata(points, axis=-2)
    x, y = np.moveaxis(ranked - ranked.mean(-2, keepdims=True), -1, 0)
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), spread, out=np.full_like(spread, np.nan), where=spread > 0)


def _correlation(value: float, drawn: np.ndarray, groups: int, runs: int) -> Correlation:
    if math.isclose(abs(value), 1):
        return Correlation(value, math.nan, math.nan, groups, runs)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Correlation(value, float(low), float(high), groups, runs)


def _paired_p(differences: Sequence[float]) -> float:
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    n = len(differences)
    t = np.mean(differences) / np.std(differences, ddof=1) * math.sqrt(n)
    return float(2 * stats.t.sf(abs(t), n - 1))


def _better(errors: Errors, base: Errors) -> float:
    wins = np.sign(np.subtract.outer(list(base.values()), list(errors.values())))
    return float(1 + wins.mean()) / 2


def _seeds_for(effect: float, alpha: float) -> int | None:
    """The least number of seeds for a power of `POWER` at a mean of so many standard deviations."""

    def power(n: int) -> float:
        critical = stats.t.isf(alpha / 2, n - 1)
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n)))

    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
