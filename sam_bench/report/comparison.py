"""Rows less their baselines, seed by seed, and what can be said of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sam_bench.report.markup import markdown
from sam_bench.report.rows import Row, distinct
from sam_bench.report.stats import Paired, compare
from sam_bench.runs.files import write_atomically

Pair = tuple[Row, Row]
"""A row and its baseline."""

EPOCHS, PASSES, SECONDS, REFERENCE = "equal epochs", "equal passes", "equal seconds", "reference"
"""With what a row is compared: SGD of as many epochs, or passes, or seconds, as it has itself; one method for all."""

SAME_PASSES = 1.01
SAME_SECONDS = 1.05
"""How much more a baseline may cost and still count as having the same."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is found of rows and their baselines.

    A comparison that was planned is corrected for the number of those that were; any other for the number of the others
    that have the same baseline.

    Args:
        rows: in their order.
        baselines: of each kind of comparison, the baseline of each row that has one.
        found: by row and baseline; without those that have no finished run of a common seed.
        planned: those that were named before the runs were made.
    """

    rows: tuple[Row, ...]
    baselines: Mapping[str, Mapping[Row, Row]]
    found: Mapping[Pair, Paired]
    planned: tuple[Pair, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        candidates: Mapping[Row, Sequence[Row]],
        seconds: Callable[[Row], float],
        reference: Row | None = None,
        planned: Sequence[Pair] = (),
    ) -> "Comparison":
        """Compare the test errors of finished runs.

        Args:
            candidates: the rows of SGD that a row may be compared with.
            seconds: what a run of a row costs, in any unit.
            reference: a method with which all others are compared too.
            planned: further pairs, and those of the others that are corrected apart.
        """
        costs: dict[str, tuple[Callable[[Row], float], float]] = {
            PASSES: (lambda row: row.means["passes"], SAME_PASSES),
            SECONDS: (seconds, SAME_SECONDS),
        }
        baselines: dict[str, dict[Row, Row]] = {kind: {} for kind in (EPOCHS, PASSES, SECONDS, REFERENCE)}
        for row in rows:
            of_sgd = candidates.get(row, ())
            for each in of_sgd:
                if each.epochs == row.epochs:
                    baselines[EPOCHS][row] = each
            for kind, (cost, tolerance) in costs.items():
                if paid := [each for each in of_sgd if cost(each) <= tolerance * cost(row)]:
                    baselines[kind][row] = max(paid, key=cost)
            if reference is not None and row not in candidates.get(reference, ()):  # SAM less SGD is said in SAM's row
                baselines[REFERENCE][row] = reference
        baselines = {
            kind: {row: base for row, base in of_kind.items() if row is not base} for kind, of_kind in baselines.items()
        }
        pairs = distinct([*planned, *(pair for of_kind in baselines.values() for pair in of_kind.items())])
        pairs = [pair for pair in pairs if pair[0].errors.keys() & pair[1].errors.keys()]
        families: dict[Row | None, list[Pair]] = {}
        for pair in pairs:
            families.setdefault(None if pair in planned else pair[1], []).append(pair)
        found: dict[Pair, Paired] = {}
        for family in families.values():
            found |= compare({pair: (pair[0].errors, pair[1].errors) for pair in family})
        return cls(tuple(rows), baselines, found, tuple(planned))

    def at(self, kind: str, row: Row) -> Paired | None:
        """Return a row's comparison of a kind; None where there is no baseline, or no seed that both have."""
        baseline = self.baselines[kind].get(row)
        return None if baseline is None else self.found.get((row, baseline))

    @property
    def best(self) -> tuple[Row, Paired] | None:
        """The row of the least error of those that are compared with the reference, and its comparison with it.

        It is chosen by the same errors, so that it is corrected for all of these rows at least, planned or not.
        """
        pairs = {
            row: (row.errors, base.errors)
            for row, base in self.baselines[REFERENCE].items()
            if (row, base) in self.found
        }
        if not pairs:
            return None
        best = min(pairs, key=lambda row: row.mean)
        told = self.found[best, self.reference]
        return best, max(told, compare(pairs)[best], key=lambda each: each.level)

    @property
    def kinds(self) -> list[str]:
        """Those of which there is a comparison."""
        return [kind for kind, of_kind in self.baselines.items() if any(pair in self.found for pair in of_kind.items())]

    @property
    def reference(self) -> Row | None:
        """The method with which the others are compared, if there is one."""
        return next(iter(self.baselines[REFERENCE].values()), None)

    def heading(self, kind: str) -> str:
        """Return what the column of a kind is called."""
        if kind == REFERENCE:
            return f"less {self.reference.title}"
        return f"less SGD at {kind}"

    def as_markdown(self) -> str:
        """A column for each kind, with differences, their corrected intervals and verdicts; and what these are."""
        kinds = self.kinds
        cells = [[row.title, *(in_words(self.at(kind, row)) for kind in kinds)] for row in self.rows]
        text = [markdown(["", *(self.heading(kind) for kind in kinds)], cells)]
        if others := [pair for pair in self.planned if pair in self.found and not self._in_a_column(pair)]:
            lines = [f"- {row.title} less {base.title}: {in_words(self.found[row, base])}" for row, base in others]
            text.append("\n".join(lines))
        return "\n\n".join([*text, *self.remarks()]) + "\n"

    def remarks(self) -> list[str]:
        """What must be known to read differences."""
        counts = sorted({len(each.differences) for each in self.found.values()})
        lines = [
            f"Points of test error less the baseline's, seed by seed ({' or '.join(map(str, counts))} seeds): below 0 "
            "is better. With ±, or in brackets, Student's interval, corrected (Bonferroni, 95 % for all together) for "
            "the number of comparisons with that baseline. Better or worse is said where it excludes 0; else it is not "
            "separated (n. s.), with about how many seeds would separate the two with a probability of 80 %, if "
            "difference and spread are these."
        ]
        if self.planned:
            pairs = "; ".join(f"{row.title} less {base.title}" for row, base in self.planned)
            lines.append(f"Planned, and corrected for their own number instead: {pairs}.")
        for kind, unit in ((PASSES, "passes"), (SECONDS, "seconds of training, as the benchmark has them")):
            used = distinct(base.title for row, base in self.baselines[kind].items() if (row, base) in self.found)
            if len(used) > 1:
                lines.append(
                    f"At {kind}: of {' and '.join(used)}, that with the most {unit} which are not more than a row's."
                )
        if lost := {row.title: row.diverged for row in self.rows if row.diverged}:
            listed = ", ".join(f"{title} {count}" for title, count in lost.items())
            lines.append(f"Runs that diverged, and are left out: {listed}.")
        return lines

    def as_frame(self) -> pd.DataFrame:
        """A line for each pair, to six decimals, with the kinds of comparison that it is."""
        frame = pd.DataFrame(
            {
                "row": row.title,
                "baseline": base.title,
                "kinds": "; ".join(kind for kind, of_kind in self.baselines.items() if of_kind.get(row) is base),
                "planned": (row, base) in self.planned,
                "seeds": len(each.differences),
                "difference": each.mean,
                **_ends("interval", each.interval),
                **_ends("corrected", each.corrected_interval),
                **_ends("bootstrap", each.bootstrap_interval()),
                "p": each.p,
                "holm_p": each.adjusted_p,
                "probability_better": each.better,
                "verdict": each.verdict if len(each.differences) > 1 else None,
                "seeds_needed": each.seeds_needed,
            }
            for (row, base), each in self.found.items()
        )
        return frame.round(6)

    def _in_a_column(self, pair: Pair) -> bool:
        return any(of_kind.get(pair[0]) is pair[1] for of_kind in self.baselines.values())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md` and `.csv` to `folder`."""
    write_atomically(folder / "comparison.md", comparison.as_markdown().encode())
    write_atomically(folder / "comparison.csv", comparison.as_frame().to_csv(index=False).encode())


def in_words(each: Paired | None) -> str:
    """A difference, its corrected interval, its verdict, and, if not separated, about how many seeds would separate it.

    Of a single seed the difference alone.
    """
    if each is None or len(each.differences) < 2:
        return difference(each)
    low, high = each.corrected_interval
    needed = "" if each.separated or each.seeds_needed is None else f" (about {each.seeds_needed} seeds would)"
    return f"{signed(each.mean)} ({signed(low)} to {signed(high)}): {each.verdict}{needed}"


def in_short(each: Paired | None) -> str:
    """The same for a narrow column: the interval's half width, and "n. s." for not separated."""
    if each is None or len(each.differences) < 2:
        return difference(each)
    needed = "" if each.seeds_needed is None else f" ({each.seeds_needed})"
    return f"{difference(each)} {each.verdict if each.separated else f'n. s.{needed}'}"


def difference(each: Paired | None) -> str:
    """A difference with half of its corrected interval; of a single seed by itself."""
    if each is None:
        return "–"
    if len(each.differences) < 2:
        return signed(each.mean)
    low, high = each.corrected_interval
    return f"{signed(each.mean)} ± {(high - low) / 2:.2f}"


def signed(value: float) -> str:
    """A difference in points, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}
