"""The comparisons of a table: which row is compared with which baseline, in which family, and as text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sam_bench.report.differences import FEWEST_SEEDS, Difference, compare
from sam_bench.report.markup import markdown
from sam_bench.report.model import StudyModel
from sam_bench.report.rows import Row, distinct
from sam_bench.runs.files import write_atomically

#: A row and its baseline.
Pair = tuple[Row, Row]

#: The kinds of comparison: with SGD at equal epochs, passes or seconds, and with one reference method for all rows.
EPOCHS, PASSES, SECONDS, REFERENCE = "equal epochs", "equal passes", "equal seconds", "reference"

#: A baseline counts as equal in passes, or seconds, if its ratio to the row is between these two.
SAME = (0.9, 1.05)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Comparisons of rows with their baselines, in two families.

    The planned comparisons are one family, all others are another, which is called exploratory. The probability of any
    false claim is at most 5 % in each.

    Args:
        rows: the rows of the table, in order.
        baselines: for each kind of comparison, the baseline of each row that has one.
        differences: the result for each row and baseline; pairs without a common finished seed are absent.
        model: the model of the errors of all rows with a finished run.
        planned: the pairs that the study lists as planned.
        margin: differences up to so many points do not matter; 0 if no margin was fixed.
    """

    rows: tuple[Row, ...]
    baselines: Mapping[str, Mapping[Row, Row]]
    differences: Mapping[Pair, Difference]
    model: StudyModel[Row]
    planned: tuple[Pair, ...] = ()
    margin: float = 0

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        candidates: Mapping[Row, Sequence[Row]],
        seconds: Callable[[Row], float],
        reference: Row | None = None,
        planned: Sequence[Pair] = (),
        planned_count: int = 0,
        margin: float = 0,
    ) -> "Comparison":
        """Compare the test errors of finished runs.

        Args:
            candidates: for each row, the rows of SGD that it may be compared with.
            seconds: returns the training time of a row's run, in any unit.
            reference: a row that all others are compared with as well.
            planned: the planned pairs; they need not have a column.
            planned_count: the number of planned comparisons, if some of them have no runs yet.
            margin: differences up to so many points do not matter.
        """
        costs: dict[str, Callable[[Row], float]] = {PASSES: lambda row: row.means["passes"], SECONDS: seconds}
        baselines: dict[str, dict[Row, Row]] = {kind: {} for kind in (EPOCHS, PASSES, SECONDS, REFERENCE)}
        for row in rows:
            sgd_rows = candidates.get(row, ())
            for sgd in sgd_rows:
                if sgd.epochs == row.epochs:
                    baselines[EPOCHS][row] = sgd

            for kind, cost in costs.items():
                equals = [sgd for sgd in sgd_rows if SAME[0] * cost(row) <= cost(sgd) <= SAME[1] * cost(row)]
                if equals:
                    baselines[kind][row] = min(equals, key=lambda sgd: abs(cost(sgd) - cost(row)))

            # The reference's own row compares it with SGD, so SGD's rows need not do so again.
            if reference is not None and row not in candidates.get(reference, ()):
                baselines[REFERENCE][row] = reference

        # No row is compared with itself: the candidates and the reference are rows of the table too.
        baselines = {
            kind: {row: base for row, base in of_kind.items() if row is not base} for kind, of_kind in baselines.items()
        }

        # Planned comparisons without runs count as well, so that the level is final.
        model = StudyModel.of({row: row.errors for row in rows if row.errors})
        exploratory = _unplanned_pairs(baselines, planned)
        differences = compare(model, _with_common_seed(planned), max(len(planned), planned_count), margin)
        differences |= compare(model, _with_common_seed(exploratory), len(exploratory), margin)
        return cls(tuple(rows), baselines, differences, model, tuple(planned), margin)

    def at(self, kind: str, row: Row) -> Difference | None:
        """Return a row's comparison of a kind; None without a baseline or a common seed."""
        baseline = self.baselines[kind].get(row)
        return None if baseline is None else self.differences.get((row, baseline))

    @property
    def kinds(self) -> list[str]:
        """Return the kinds that have at least one comparison."""
        return [
            kind
            for kind, of_kind in self.baselines.items()
            if any(pair in self.differences for pair in of_kind.items())
        ]

    @property
    def reference(self) -> Row | None:
        """Return the row that all others are compared with; None if there is none."""
        return next(iter(self.baselines[REFERENCE].values()), None)

    def heading(self, kind: str) -> str:
        """Return the heading of a kind's column."""
        if kind == REFERENCE:
            return f"Δ to {self.reference.title}"
        return f"Δ to SGD at {kind}"

    @property
    def families(self) -> int:
        """Return the number of families that have a comparison with a verdict."""
        return len({pair in self.planned for pair, each in self.differences.items() if each.verdict})

    def equal_in(self, pair: Pair) -> str:
        """Return which of epochs and passes are equal in both rows of a pair, as " at equal epochs"; "" if none is."""
        row, base = pair
        kinds = [kind for kind in (EPOCHS, PASSES) if self.baselines[kind].get(row) is base]
        return f" at equal {' and '.join(kind.removeprefix('equal ') for kind in kinds)}" if kinds else ""

    def as_markdown(self) -> str:
        """Return a Markdown table with a column for each kind, a list of planned pairs without one, and remarks."""
        kinds = self.kinds
        cells = [[row.title, *(in_words(self.at(kind, row)) for kind in kinds)] for row in self.rows]
        text = [markdown(["", *(self.heading(kind) for kind in kinds)], cells)]

        if without_column := [pair for pair in self.planned if pair in self.differences and not self._has_column(pair)]:
            lines = [
                f"- {row.title} − {base.title}: {in_words(self.differences[row, base])}" for row, base in without_column
            ]
            text.append("\n".join(lines))
        return "\n\n".join([*text, *self.remarks()]) + "\n"

    def remarks(self) -> list[str]:
        """Return what a reader of the differences needs: what they are, their verdicts, model and families."""
        counts = sorted({each.seeds for each in self.differences.values()})
        margin = f"within the margin if it lies within ±{self.margin:g} points, " if self.margin else ""
        lines = [
            f"Δ: error minus the baseline's, in points ({_seed_counts(counts)}); below 0 is better. ± or brackets: the "
            "95 % interval at which all differences of its family hold together.",
            f"Verdict, from {FEWEST_SEEDS} seeds on: better or worse if the interval excludes 0, {margin}else "
            "undecided.",
        ]

        if self.model.pooled.freedom > 0:
            own = "; ".join(row.title for row in self.model.own)
            lines.append(
                f"Residual standard deviation: {self.model.pooled.variance**0.5:.2f} points, "
                f"{self.model.pooled.freedom} degrees of freedom (error = row + seed)."
                + (f" Rows with a spread of their own: {own}." if own else "")
            )
        if self.planned:
            lines.append(f"Planned: {'; '.join(f'{row.title} − {base.title}' for row, base in self.planned)}.")
            if _unplanned_pairs(self.baselines, self.planned):
                lines.append("Exploratory: all others.")

        if PASSES in self.kinds:
            low, high = SAME
            lines.append(f"Equal passes, or seconds: from {1 - low:.0%} less to {high - 1:.0%} more than the row's.")
        if diverged := {row.title: row.diverged for row in self.rows if row.diverged}:
            listed = "; ".join(f"{title} {count}" for title, count in diverged.items())
            lines.append(f"Diverged runs, left out: {listed}.")
        return lines

    def as_frame(self) -> pd.DataFrame:
        """Return a line for each pair, rounded to six decimals, with the kinds of comparison that it belongs to."""
        frame = pd.DataFrame(
            {
                "row": row.title,
                "baseline": base.title,
                "kinds": "; ".join(kind for kind, of_kind in self.baselines.items() if of_kind.get(row) is base),
                "planned": (row, base) in self.planned,
                "seeds": each.seeds,
                "difference": each.mean,
                "standard_error": each.estimate.error,
                "degrees_of_freedom": each.estimate.freedom,
                "spread": "pooled" if each.estimate.is_pooled else "own",
                **_interval_columns("interval", each.interval),
                **_interval_columns("simultaneous", each.simultaneous),
                "p": each.p,
                "holm_p": each.holm_p,
                "probability_better": each.probability_better,
                "margin": each.margin,
                "verdict": each.verdict,
            }
            for (row, base), each in self.differences.items()
        )

        return frame.round(6)

    def _has_column(self, pair: Pair) -> bool:
        return any(of_kind.get(pair[0]) is pair[1] for of_kind in self.baselines.values())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md` and `.csv` to `folder`."""
    write_atomically(folder / "comparison.md", comparison.as_markdown().encode())
    write_atomically(folder / "comparison.csv", comparison.as_frame().to_csv(index=False).encode())


def in_words(each: Difference | None) -> str:
    """Return a difference with its simultaneous interval and verdict; with a single seed, the difference alone."""
    if each is None or each.seeds < 2:
        return difference(each)
    low, high = each.simultaneous
    verdict = f": {each.verdict}" if each.verdict else ""
    return f"{signed(each.mean)} ({signed(low)} to {signed(high)}){verdict}"


def in_short(each: Difference | None) -> str:
    """Return a difference ± half its simultaneous interval, and its verdict, for a narrow column."""
    return f"{difference(each)} {each.verdict or ''}".rstrip() if each else "–"


def difference(each: Difference | None) -> str:
    """Return a difference ± half its simultaneous interval; alone with too few seeds for a verdict."""
    if each is None:
        return "–"
    if each.verdict is None:
        return signed(each.mean)
    low, high = each.simultaneous
    return f"{signed(each.mean)} ± {(high - low) / 2:.2f}"


def signed(value: float) -> str:
    """Return a difference in points, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _unplanned_pairs(baselines: Mapping[str, Mapping[Row, Row]], planned: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that were not planned, each once."""
    pairs = distinct(pair for of_kind in baselines.values() for pair in of_kind.items())
    return [pair for pair in pairs if pair not in planned]


def _with_common_seed(pairs: Iterable[Pair]) -> list[Pair]:
    return [(row, base) for row, base in pairs if row.errors.keys() & base.errors.keys()]


def _seed_counts(counts: Sequence[int]) -> str:
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def _interval_columns(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}
