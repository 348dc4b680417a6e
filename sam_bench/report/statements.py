"""What studies find: every statement with its interval, and none that the interval does not bear."""

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
    """One comparison.

    Args:
        text: a sentence without its full stop.
        verdict: "better", "worse", or "not separated"; None where there are too few seeds to tell.
    """

    text: str
    verdict: str | None


def statements(comparison: Comparison) -> list[Statement]:
    """The planned comparisons, in their order, and that of the best row with the reference, which is said once."""
    best = comparison.best
    found = []
    for (row, base), each in _planned(comparison).items():
        if best is None or each is not best[1]:
            at = _at(comparison, (row, base))
            found.append(Statement(_sentence(row.title, base.title, each, at), each.verdict))
    if best is not None:
        row, each = best
        count = sum(pair in comparison.found for pair in comparison.baselines[REFERENCE].items())
        among = f"lowest error of {count} compared with {comparison.reference.title}"
        lost = f"; {row.diverged} of {len(row.runs)} runs diverged" if row.diverged else ""
        found.append(
            Statement(_sentence(f"{row.title} ({among}{lost})", comparison.reference.title, each), each.verdict)
        )
    return found


def across(studies: Mapping[str, Comparison]) -> dict[str, dict[str, tuple[str, Paired | None]]]:
    """The planned comparisons of several studies side by side, and below them that of the best row of each.

    Returns:
        By what is compared, and then by study: which row it is of, where that is not said by what is compared, and the
        difference, or None where the study has it not.
    """
    lines: dict[str, dict[str, tuple[str, Paired | None]]] = {}
    best: dict[str, dict[str, tuple[str, Paired | None]]] = {}
    for study, comparison in studies.items():
        for (row, base), each in _planned(comparison).items():
            line = f"{row.title} − {base.title}{_at(comparison, (row, base))}"
            lines.setdefault(line, dict.fromkeys(studies, ("", None)))[study] = ("", each)
        if comparison.best is not None:
            row, each = comparison.best
            line = f"the other row with the lowest error − {comparison.reference.title}"
            best.setdefault(line, dict.fromkeys(studies, ("", None)))[study] = (f"{row.title}: ", each)
    return lines | best


def _planned(comparison: Comparison) -> dict[Pair, Paired]:
    """Those of which there are runs."""
    return {pair: comparison.found[pair] for pair in comparison.planned if pair in comparison.found}


def _at(comparison: Comparison, pair: Pair) -> str:
    """What is equal in both rows of a pair."""
    row, base = pair
    how = [kind for kind in (EPOCHS, PASSES, SECONDS) if comparison.baselines[kind].get(row) is base]
    return f" at equal {' and '.join(kind.removeprefix('equal ') for kind in how)}" if how else ""


def _sentence(one: str, other: str, each: Paired, at: str = "") -> str:
    if each.separated:
        return f"{one} is {each.verdict} than {other}{at}, by {abs(each.mean):.2f} points {interval(each)}"
    if each.verdict is None:
        return f"{one} − {other}{at}: {signed(each.mean)} points, of too few seeds to tell"
    return f"{one} and {other} are not separated{at}: {signed(each.mean)} points {interval(each)}{more_seeds(each)}"
