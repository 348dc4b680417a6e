"""What a study finds, in sentences: every one with its interval, and none that the interval does not bear."""

from dataclasses import dataclass

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, in_words
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
            at = f" (at equal {' and '.join(kind.removeprefix('equal ') for kind in how)})" if how else ""
            found.append(_statement(f"{row.title} less {base.title}{at}", comparison.found[row, base]))
    if comparison.best is not None:
        best, against = comparison.best
        count = sum(pair in comparison.found for pair in comparison.baselines[REFERENCE].items())
        subject = f"{best.title}, of the least error of {count} compared with {comparison.reference.title}, less it"
        found.append(_statement(subject, against))
    return found


def _statement(subject: str, each: Paired) -> Statement:
    return Statement(f"{subject}: {in_words(each)}", each.verdict)
