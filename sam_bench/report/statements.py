"""What a study finds, in sentences: every one with its interval, and none that the interval does not bear."""

from dataclasses import dataclass

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, interval, more_seeds, signed
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
    """The planned comparisons, in their order, and that of the best row with the reference."""
    found = []
    for row, base in comparison.planned:
        if (row, base) in comparison.found:
            how = [kind for kind in (EPOCHS, PASSES, SECONDS) if comparison.baselines[kind].get(row) is base]
            at = f" at equal {' and '.join(kind.removeprefix('equal ') for kind in how)}" if how else ""
            each = comparison.found[row, base]
            found.append(Statement(_sentence(row.title, base.title, each, at), each.verdict))
    if comparison.best is not None:
        best, each = comparison.best
        count = sum(pair in comparison.found for pair in comparison.baselines[REFERENCE].items())
        among = f"{best.title}, of the least error of {count} compared with {comparison.reference.title}"
        lost = f" ({best.diverged} of {len(best.runs)} runs diverged)" if best.diverged else ""
        found.append(Statement(_sentence(f"{among}{lost},", comparison.reference.title, each), each.verdict))
    return found


def _sentence(one: str, other: str, each: Paired, at: str = "") -> str:
    if each.separated:
        return f"{one} is {each.verdict} than {other}{at}, by {abs(each.mean):.2f} points {interval(each)}"
    if each.verdict is None:
        return f"{one} less {other}{at}: {signed(each.mean)} points, of too few seeds to tell"
    return f"{one} and {other} are not separated{at}: {signed(each.mean)} points {interval(each)}{more_seeds(each)}"
