"""The statistics of the tables: intervals, paired comparisons corrected for their number, ranks, correlations."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K", bound=Hashable)

#: A row's errors in percent, by seed.
Errors = Mapping[int, float]

#: The probability that `seeds_needed` seeds separate two rows, if their true difference is the measured one.
POWER = 0.8

#: With fewer seeds there is no verdict: errors have two decimals, so two differences may be equal by chance.
FEWEST_SEEDS = 3

#: Larger numbers of seeds needed are not computed: nobody runs so many.
MOST_SEEDS = 10_000


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided confidence interval of the mean under Student's t; NaN, NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = np.mean(values)
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


@dataclass(frozen=True)
class Paired:
    """The differences between a row and its baseline, seed by seed; below 0 the row is better.

    Args:
        differences: row minus baseline in points, one for each common seed.
        better: the probability that a run of the row has a lower error than one of the baseline, ties counting half.
            It is taken over all pairs of runs, of equal seeds or not (Agarwal et al., 2021, arXiv:2108.13264).
        p: the p-value of a paired two-sided t-test; NaN for fewer than two seeds.
        adjusted_p: Holm's p-value over all comparisons of its family; significant below 0.05.
        level: the level of the corrected interval.
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
        """Return Student's 95 % interval for this comparison by itself."""
        return t_interval(self.differences)

    @property
    def corrected_interval(self) -> tuple[float, float]:
        """Return Student's interval at `level`, at which all intervals of a family hold together (Bonferroni)."""
        return t_interval(self.differences, self.level)

    @property
    def separated(self) -> bool:
        """Return True if there are at least `FEWEST_SEEDS` seeds and the corrected interval excludes 0."""
        low, high = self.corrected_interval
        return len(self.differences) >= FEWEST_SEEDS and (low > 0 or high < 0)

    @property
    def seeds_needed(self) -> int | None:
        """Return about how many seeds would separate the two with probability `POWER`.

        The measured difference and spread are taken for the true ones. None for fewer than `FEWEST_SEEDS` seeds, for a
        difference of 0, and if more than about `MOST_SEEDS` would be needed.
        """
        if len(self.differences) < FEWEST_SEEDS or self.mean == 0:
            return None
        spread = float(np.std(self.differences, ddof=1))
        return 2 if spread == 0 else _seeds_for(abs(self.mean) / spread, 1 - self.level)

    @property
    def verdict(self) -> str | None:
        """Return "better", "worse" or "not separated"; None for fewer than `FEWEST_SEEDS` seeds."""
        if len(self.differences) < FEWEST_SEEDS:
            return None
        if self.separated:
            return "better" if self.mean < 0 else "worse"
        return "not separated"

    def bootstrap_interval(self, level: float = 0.95, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
        """Return the percentile bootstrap's interval of the mean difference; NaN, NaN for fewer than two seeds.

        With few seeds it is too narrow: use Student's interval then.
        """
        if len(self.differences) < 2:
            return math.nan, math.nan
        resampled = np.random.default_rng(seed).choice(self.differences, (resamples, len(self.differences)))
        low, high = np.quantile(resampled.mean(1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def compare(pairs: Mapping[K, tuple[Errors, Errors]], count: int | None = None, alpha: float = 0.05) -> dict[K, Paired]:
    """Compare rows with their baselines on common seeds; intervals and p-values are corrected for all comparisons.

    Args:
        pairs: a row's errors and its baseline's, by any name.
        count: the number of comparisons to correct for, if some have no runs yet; None for the number of pairs.
        alpha: the probability that any of them claims a false difference.

    Raises:
        ValueError: a row and its baseline have no seed in common, or an error is not finite.
    """
    differences = {}
    for name, (errors, base) in pairs.items():
        if not all(math.isfinite(error) for error in (*errors.values(), *base.values())):
            raise ValueError(f"{name}: an error is not finite; leave out diverged runs")
        if not errors.keys() & base.keys():
            raise ValueError(f"{name} has no seed in common with its baseline")
        differences[name] = tuple(errors[seed] - base[seed] for seed in sorted(errors.keys() & base.keys()))

    p = {name: _paired_p(each) for name, each in differences.items()}
    count = max(len(pairs), count or 0, 1)
    level = 1 - alpha / count

    # Holm's p-values are scaled so that 0.05 is the threshold for any `alpha`. Missing comparisons count as well.
    missing = [math.nan] * (count - len(pairs))
    scaled = [min(0.05 / alpha * each, 1.0) for each in holm([*p.values(), *missing])]
    adjusted = dict(zip(p, scaled, strict=False))
    return {
        name: Paired(differences[name], _better(errors, base), p[name], adjusted[name], level)
        for name, (errors, base) in pairs.items()
    }


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


def ranks(
    rows: Mapping[str, Errors], level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Return each row's rank by its mean error, 1 the best, and the ends of the rank's bootstrap interval.

    Only seeds that all rows have count; the bootstrap draws seeds.

    Raises:
        ValueError: the rows have no seed in common.
    """
    common = sorted(set.intersection(*(set(errors) for errors in rows.values())))
    if not common:
        raise ValueError("the rows have no seed in common")

    # Each draw of seeds is used for all rows, so that they are compared on the same seeds.
    errors = np.array([[row[each] for each in common] for row in rows.values()])
    drawn = np.random.default_rng(seed).integers(len(common), size=(resamples, len(common)))
    resampled = stats.rankdata(errors[:, drawn].mean(2), axis=0)

    measured = stats.rankdata(errors.mean(1))
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return {name: (float(measured[i]), float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(rows)}


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
    """Return the least number of seeds at which a two-sided paired t-test reaches `POWER`.

    None if more than about `MOST_SEEDS` are needed.

    Args:
        effect: the mean difference in standard deviations.
        alpha: the level of the test.
    """

    def power(n: int) -> float:
        critical = stats.t.isf(alpha / 2, n - 1)
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n)))

    # Double until it is enough, then bisect: `low` is always too few, `high` is enough.
    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
