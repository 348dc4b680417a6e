"""What a study finds, in sentences: every one with its interval, and none that the interval does not bear."""

from dataclasses import dataclass

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, signed
from sam_bench.report.stats import Paired


@dataclass(frozen=True)
class Statement:
    """One comparison.

    Args:
        text: a sentence without its full stop.
        verdict: "better", "worse", or "not separated".
    """

    text: str
    verdict: str


def statements(comparison: Comparison) -> list[Statement]:
    """The planned comparisons, in their order, and that of the best row with the reference."""
    found = []
    for row, base in comparison.planned:
        if (row, base) in comparison.found:
            how = [kind for kind in (EPOCHS, PASSES, SECONDS) if comparison.baselines[kind].get(row) is base]
            at = f", at equal {' and '.join(kind.removeprefix('equal ') for kind in how)}" if how else ""
            each = comparison.found[row, base]
            found.append(
                Statement(f"{row.title} has {points(each)} error than {base.title}{at} {why(each)}", each.verdict)
            )
    if comparison.best is not None:
        best, each = comparison.best
        count = sum(pair in comparison.found for pair in comparison.baselines[REFERENCE].items())
        subject = f"{best.title} has the least error of the {count} rows compared with {comparison.reference.title}"
        found.append(Statement(f"{subject}, {points(each)} than it {why(each)}", each.verdict))
    return found


def points(each: Paired) -> str:
    """How much less or more error it is."""
    return f"{abs(each.mean):.2f} points {'less' if each.mean < 0 else 'more'}"


def why(each: Paired) -> str:
    """The corrected interval of the difference, and the verdict; of a single seed, that there is none."""
    if len(each.differences) < 2:
        return "(one seed)"
    low, high = each.corrected_interval
    needed = "" if each.separated or each.seeds_needed is None else f", about {each.seeds_needed} seeds would"
    return f"({signed(low)} to {signed(high)}): {each.verdict}{needed}"
