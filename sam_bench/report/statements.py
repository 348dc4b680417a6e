"""Statements on what studies find, each with its interval and none that goes beyond it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sam_bench.report.comparison import (
    EPOCHS,
    PASSES,
    REFERENCE,
    SECONDS,
    Comparison,
    Pair,
    interval,
    more_seeds,
    signed,
)
from sam_bench.report.stats import Paired


@dataclass(frozen=True)
class Statement:
    """One comparison in words.

    Args:
        text: a sentence without its full stop.
        verdict: "better", "worse" or "not separated"; None with too few seeds.
    """

    text: str
    verdict: str | None


def statements(comparison: Comparison) -> list[Statement]:
    """Return the planned comparisons, in order, and then that of the best row with the reference.

    If the best row's comparison is one of the planned ones, it appears at the end only.
    """
    best = comparison.best
    results = []
    for (row, base), paired in _planned(comparison).items():
        if best is None or paired is not best[1]:
            equal = _equal_in(comparison, (row, base))
            results.append(Statement(_sentence(row.title, base.title, paired, equal), paired.verdict))

    # The best row was chosen after the fact, so the sentence says from how many.
    if best is not None:
        row, paired = best
        count = sum(pair in comparison.found for pair in comparison.baselines[REFERENCE].items())
        among = f"lowest error of {count} compared with {comparison.reference.title}"
        diverged = f"; {row.diverged} of {len(row.runs)} runs diverged" if row.diverged else ""
        results.append(
            Statement(_sentence(f"{row.title} ({among}{diverged})", comparison.reference.title, paired), paired.verdict)
        )
    return results


def across(studies: Mapping[str, Comparison]) -> dict[str, dict[str, tuple[str, Paired | None]]]:
    """Return the planned comparisons of several studies side by side, and below them that of each study's best row.

    Returns:
        For each line (its title says what is compared) and study: the row that was compared, if the title does not name
        it, else ""; and the difference, or None if the study does not have it.
    """
    lines: dict[str, dict[str, tuple[str, Paired | None]]] = {}
    best: dict[str, dict[str, tuple[str, Paired | None]]] = {}
    for study, comparison in studies.items():
        for (row, base), paired in _planned(comparison).items():
            line = f"{row.title} − {base.title}{_equal_in(comparison, (row, base))}"
            lines.setdefault(line, dict.fromkeys(studies, ("", None)))[study] = ("", paired)

        if comparison.best is not None:
            row, paired = comparison.best
            line = f"the other row with the lowest error − {comparison.reference.title}"
            best.setdefault(line, dict.fromkeys(studies, ("", None)))[study] = (f"{row.title}: ", paired)
    return lines | best


def _planned(comparison: Comparison) -> dict[Pair, Paired]:
    """Return the planned comparisons that have runs."""
    return {pair: comparison.found[pair] for pair in comparison.planned if pair in comparison.found}


def _equal_in(comparison: Comparison, pair: Pair) -> str:
    """Return in words what is equal in both rows of a pair, with a space before it; "" if nothing is."""
    row, base = pair
    kinds = [kind for kind in (EPOCHS, PASSES, SECONDS) if comparison.baselines[kind].get(row) is base]
    return f" at equal {' and '.join(kind.removeprefix('equal ') for kind in kinds)}" if kinds else ""


def _sentence(row: str, base: str, paired: Paired, equal: str = "") -> str:
    if paired.separated:
        return f"{row} is {paired.verdict} than {base}{equal}, by {abs(paired.mean):.2f} points {interval(paired)}"
    if paired.verdict is None:
        return f"{row} − {base}{equal}: {signed(paired.mean)} points, of too few seeds to tell"
    return (
        f"{row} and {base} are not separated{equal}: "
        f"{signed(paired.mean)} points {interval(paired)}{more_seeds(paired)}"
    )
