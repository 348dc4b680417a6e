"""Differences between rows and their baselines, seed by seed, with corrected intervals and verdicts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sam_bench.report.markup import markdown
from sam_bench.report.rows import Row, distinct
from sam_bench.report.stats import FEWEST_SEEDS, Paired, compare
from sam_bench.runs.files import write_atomically

#: A row and its baseline.
Pair = tuple[Row, Row]

#: The kinds of comparison: with SGD at equal epochs, passes or seconds, and with one reference method for all rows.
EPOCHS, PASSES, SECONDS, REFERENCE = "equal epochs", "equal passes", "equal seconds", "reference"

#: A larger number of seeds needed is shown as "more than 100".
MANY_SEEDS = 100

#: A baseline counts as equal in passes, or seconds, if its ratio to the row is between these two.
SAME = (0.9, 1.05)

#: The probability that a table claims any false difference. Planned comparisons share one half, the others one half.
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Comparison:
    """Comparisons of rows with their baselines.

    The probability of any false difference among them is at most 5 %. The planned comparisons share one half of it, the
    others share the other half (weighted Bonferroni). If there is one sort only, it has the 5 % to itself.

    Args:
        rows: the rows of the table, in order.
        baselines: for each kind of comparison, the baseline of each row that has one.
        found: the result for each row and baseline; pairs without a common finished seed are absent.
        planned: the pairs that the study lists as planned.
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
        of_planned: int = 0,
    ) -> "Comparison":
        """Compare the test errors of finished runs.

        Args:
            candidates: for each row, the rows of SGD that it may be compared with.
            seconds: returns the training time of a row's run, in any unit.
            reference: a row that all others are compared with as well.
            planned: the planned pairs, which are corrected apart from all others; they need not have a column.
            of_planned: the number of planned comparisons, if some of them have no runs yet.
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

        # Planned and other pairs are corrected apart. Planned ones without runs count, so that the level is final.
        unplanned = _unplanned_pairs(baselines, planned)
        count = max(len(planned), of_planned)
        alpha = ALPHA / 2 if count and unplanned else ALPHA
        found = compare(_common_errors(planned), count, alpha) | compare(
            _common_errors(unplanned), len(unplanned), alpha
        )
        found = {pair: found[pair] for pair in distinct([*planned, *unplanned]) if pair in found}
        return cls(tuple(rows), baselines, found, tuple(planned))

    def at(self, kind: str, row: Row) -> Paired | None:
        """Return a row's comparison of a kind; None without a baseline or a common seed."""
        baseline = self.baselines[kind].get(row)
        return None if baseline is None else self.found.get((row, baseline))

    @property
    def best(self) -> tuple[Row, Paired] | None:
        """Return the row with the lowest error of those compared with the reference, and its comparison with it.

        Only rows with all seeds of the reference take part; their errors are averaged over these seeds. The same errors
        choose the row and compare it, so the interval is corrected for at least all of these rows, even if the pair was
        planned. None if no row takes part.
        """
        if self.reference is None:
            return None

        # `errors` is keyed by seed, so iterating over the reference's errors gives its seeds.
        seeds = self.reference.errors
        pairs = {row: (row.errors, seeds) for row in self.baselines[REFERENCE] if row.errors.keys() >= seeds.keys()}
        if not pairs or not seeds:
            return None

        best = min(pairs, key=lambda row: sum(row.errors[seed] for seed in seeds))
        in_table = self.found[best, self.reference]
        return best, max(in_table, compare(pairs)[best], key=lambda paired: paired.level)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds that have at least one comparison."""
        return [kind for kind, of_kind in self.baselines.items() if any(pair in self.found for pair in of_kind.items())]

    @property
    def reference(self) -> Row | None:
        """Return the row that all others are compared with; None if there is none."""
        return next(iter(self.baselines[REFERENCE].values()), None)

    def heading(self, kind: str) -> str:
        """Return the heading of a kind's column."""
        if kind == REFERENCE:
            return f"Δ to {self.reference.title}"
        return f"Δ to SGD at {kind}"

    def as_markdown(self) -> str:
        """Return a Markdown table of differences, corrected intervals and verdicts, a column for each kind.

        Planned pairs that have no column follow as a list, then the remarks that explain the numbers.
        """
        kinds = self.kinds
        cells = [[row.title, *(in_words(self.at(kind, row)) for kind in kinds)] for row in self.rows]
        text = [markdown(["", *(self.heading(kind) for kind in kinds)], cells)]

        if without_column := [pair for pair in self.planned if pair in self.found and not self._has_column(pair)]:
            lines = [f"- {row.title} − {base.title}: {in_words(self.found[row, base])}" for row, base in without_column]
            text.append("\n".join(lines))

        holm = (
            "The verdict is the interval's (Bonferroni). Holm's p, in comparison.csv, is smaller, and may be below "
            "0.05 where the two are not separated."
        )
        return "\n\n".join([*text, *self.remarks(), holm]) + "\n"

    def remarks(self) -> list[str]:
        """Return the remarks that a reader of the differences needs."""
        counts = sorted({len(paired.differences) for paired in self.found.values()})
        over = "seeds alone: images, wrong labels and tuning are one draw"
        if any(row.is_of_draws for row in self.rows):
            over = "seeds that are draws of images and wrong labels too: tuning is one draw"
        lines = [
            f"Δ: error minus the baseline's, in points, seed by seed ({_seed_counts(counts)}): below 0 is better. "
            "With ±, or in brackets, Student's interval, corrected for the number of comparisons: all of a table hold "
            f"together with 95 % (Bonferroni). From {FEWEST_SEEDS} seeds on better or worse is said where it excludes "
            "0; else the two are not separated (n. s.), with about how many seeds would separate them with a "
            f"probability of 80 %, if difference and spread are these. Over {over}."
        ]

        if self.planned:
            pairs = "; ".join(f"{row.title} − {base.title}" for row, base in self.planned)
            all_planned = not _unplanned_pairs(self.baselines, self.planned)
            shared = "" if all_planned else ", and half of the 5 % are theirs, the other half all others'"
            lines.append(f"Planned{shared}: {pairs}.")

        if PASSES in self.kinds:
            low, high = SAME
            lines.append(
                f"At equal passes, or seconds: from {1 - low:.0%} less to {high - 1:.0%} more than the row's; a row "
                "without such a run of SGD has no entry."
            )

        if diverged := {row.title: row.diverged for row in self.rows if row.diverged}:
            listed = ", ".join(f"{title} {count}" for title, count in diverged.items())
            lines.append(f"Runs that diverged, and are left out: {listed}.")
        return lines

    def as_frame(self) -> pd.DataFrame:
        """Return a line for each pair, rounded to six decimals, with the kinds of comparison that it belongs to."""
        frame = pd.DataFrame(
            {
                "row": row.title,
                "baseline": base.title,
                "kinds": "; ".join(kind for kind, of_kind in self.baselines.items() if of_kind.get(row) is base),
                "planned": (row, base) in self.planned,
                "seeds": len(paired.differences),
                "difference": paired.mean,
                **_interval_columns("interval", paired.interval),
                **_interval_columns("corrected", paired.corrected_interval),
                **_interval_columns("bootstrap", paired.bootstrap_interval()),
                "p": paired.p,
                "holm_p": paired.adjusted_p,
                "probability_better": paired.better,
                "verdict": paired.verdict,
                "seeds_needed": paired.seeds_needed,
            }
            for (row, base), paired in self.found.items()
        )

        return frame.round(6)

    def _has_column(self, pair: Pair) -> bool:
        return any(of_kind.get(pair[0]) is pair[1] for of_kind in self.baselines.values())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md` and `.csv` to `folder`."""
    write_atomically(folder / "comparison.md", comparison.as_markdown().encode())
    write_atomically(folder / "comparison.csv", comparison.as_frame().to_csv(index=False).encode())


def in_words(each: Paired | None) -> str:
    """Return a difference with its corrected interval and verdict; if not separated, also the seeds that it needs.

    With a single seed, return the difference alone.
    """
    if each is None or len(each.differences) < 2:
        return difference(each)
    verdict = f": {each.verdict}" if each.verdict else ""
    return f"{signed(each.mean)} {interval(each)}{verdict}{more_seeds(each)}"


def in_short(each: Paired | None) -> str:
    """Return what `in_words` does, for a narrow column: half the interval's width, and "n. s." for not separated."""
    if each is None or len(each.differences) < 2:
        return difference(each)
    if each.verdict != "not separated":
        return f"{difference(each)} {each.verdict or ''}".rstrip()
    return f"{difference(each)} n. s." + (f" ({_capped_count(each.seeds_needed, '> ')})" if each.seeds_needed else "")


def difference(each: Paired | None) -> str:
    """Return a difference ± half the width of its corrected interval; alone with too few seeds for a verdict."""
    if each is None:
        return "–"
    if len(each.differences) < FEWEST_SEEDS:
        return signed(each.mean)
    low, high = each.corrected_interval
    return f"{signed(each.mean)} ± {(high - low) / 2:.2f}"


def interval(each: Paired) -> str:
    """Return the corrected interval in brackets."""
    low, high = each.corrected_interval
    return f"({signed(low)} to {signed(high)})"


def more_seeds(each: Paired) -> str:
    """Return about how many seeds would separate a pair that these seeds do not; "" if that is not known."""
    if each.separated or not each.seeds_needed:
        return ""
    return f", {_capped_count(each.seeds_needed, 'more than ', 'about ')} seeds would"


def signed(value: float) -> str:
    """Return a difference in points, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _unplanned_pairs(baselines: Mapping[str, Mapping[Row, Row]], planned: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that were not planned, each once."""
    pairs = distinct(pair for of_kind in baselines.values() for pair in of_kind.items())
    return [pair for pair in pairs if pair not in planned]


def _common_errors(pairs: Iterable[Pair]) -> dict[Pair, tuple[dict[int, float], dict[int, float]]]:
    """Return the errors of both rows of each pair that has a common seed."""
    return {(row, base): (row.errors, base.errors) for row, base in pairs if row.errors.keys() & base.errors.keys()}


def _capped_count(seeds: int, more: str, about: str = "") -> str:
    """Return a number of seeds with the word for it; above `MANY_SEEDS` only that it is more."""
    return f"{more}{MANY_SEEDS}" if seeds > MANY_SEEDS else f"{about}{seeds}"


def _seed_counts(counts: Sequence[int]) -> str:
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def _interval_columns(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}
