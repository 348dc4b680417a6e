"""Differences of rows to their baselines, seed by seed, and what can be said of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sam_bench.report.markup import markdown
from sam_bench.report.rows import Row, distinct
from sam_bench.report.stats import FEWEST_SEEDS, Paired, compare
from sam_bench.runs.files import write_atomically

Pair = tuple[Row, Row]
"""A row and its baseline."""

EPOCHS, PASSES, SECONDS, REFERENCE = "equal epochs", "equal passes", "equal seconds", "reference"
"""With what a row is compared: SGD of as many epochs, or passes, or seconds, as it has itself; one method for all."""

MANY_SEEDS = 100
"""Of more than these it is only said that they would be more."""

SAME = (0.9, 1.05)
"""Of a row's passes, or seconds, what a baseline may have that counts as having as many."""

ALPHA = 0.05
"""The probability that a table claims any difference where there is none: half of it for what was planned."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is found of rows and their baselines.

    All together claim a difference where there is none with a probability of at most 5 %: a half of it is shared by the
    comparisons that were planned, a half by the others (weighted Bonferroni; all of it where there is one kind only).

    Args:
        rows: in their order.
        baselines: of each kind of comparison, the baseline of each row that has one.
        found: by row and baseline; without those that have no finished run of a common seed.
        planned: those that the study lists so.
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
            candidates: the rows of SGD that a row may be compared with.
            seconds: what a run of a row costs, in any unit.
            reference: a method with which all others are compared too.
            planned: further pairs, and those of the others that are corrected apart.
            of_planned: how many comparisons were planned, where some of them have no runs yet.
        """
        costs: dict[str, Callable[[Row], float]] = {PASSES: lambda row: row.means["passes"], SECONDS: seconds}
        baselines: dict[str, dict[Row, Row]] = {kind: {} for kind in (EPOCHS, PASSES, SECONDS, REFERENCE)}
        for row in rows:
            of_sgd = candidates.get(row, ())
            for each in of_sgd:
                if each.epochs == row.epochs:
                    baselines[EPOCHS][row] = each
            for kind, cost in costs.items():
                alike = [each for each in of_sgd if SAME[0] * cost(row) <= cost(each) <= SAME[1] * cost(row)]
                if alike:
                    baselines[kind][row] = min(alike, key=lambda each: abs(cost(each) - cost(row)))
            if reference is not None and row not in candidates.get(reference, ()):  # SAM − SGD is said in SAM's row
                baselines[REFERENCE][row] = reference
        baselines = {
            kind: {row: base for row, base in of_kind.items() if row is not base} for kind, of_kind in baselines.items()
        }
        others = _others(baselines, planned)
        count = max(len(planned), of_planned)
        alpha = ALPHA / 2 if count and others else ALPHA
        found = compare(_errors(planned), count, alpha) | compare(_errors(others), len(others), alpha)
        found = {pair: found[pair] for pair in distinct([*planned, *others]) if pair in found}
        return cls(tuple(rows), baselines, found, tuple(planned))

    def at(self, kind: str, row: Row) -> Paired | None:
        """Return a row's comparison of a kind; None where there is no baseline, or no seed that both have."""
        baseline = self.baselines[kind].get(row)
        return None if baseline is None else self.found.get((row, baseline))

    @property
    def best(self) -> tuple[Row, Paired] | None:
        """The row of the least error of those that are compared with the reference, and its comparison with it.

        Of rows that have all seeds which the reference has, by their mean over these. It is chosen by the same errors,
        so that it is corrected for all of these rows at least, planned or not.
        """
        if self.reference is None:
            return None
        seeds = self.reference.errors
        pairs = {row: (row.errors, seeds) for row in self.baselines[REFERENCE] if row.errors.keys() >= seeds.keys()}
        if not pairs or not seeds:
            return None
        best = min(pairs, key=lambda row: sum(row.errors[seed] for seed in seeds))
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
            return f"Δ to {self.reference.title}"
        return f"Δ to SGD at {kind}"

    def as_markdown(self) -> str:
        """A column for each kind, with differences, their corrected intervals and verdicts; and what these are."""
        kinds = self.kinds
        cells = [[row.title, *(in_words(self.at(kind, row)) for kind in kinds)] for row in self.rows]
        text = [markdown(["", *(self.heading(kind) for kind in kinds)], cells)]
        if others := [pair for pair in self.planned if pair in self.found and not self._in_a_column(pair)]:
            lines = [f"- {row.title} − {base.title}: {in_words(self.found[row, base])}" for row, base in others]
            text.append("\n".join(lines))
        holm = (
            "The verdict is the interval's (Bonferroni). Holm's p, in comparison.csv, is smaller, and may be below "
            "0.05 where the two are not separated."
        )
        return "\n\n".join([*text, *self.remarks(), holm]) + "\n"

    def remarks(self) -> list[str]:
        """What must be known to read differences."""
        counts = sorted({len(each.differences) for each in self.found.values()})
        over = "seeds alone: images, wrong labels and tuning are one draw"
        if any(row.is_of_draws for row in self.rows):
            over = "seeds that are draws of images and wrong labels too: tuning is one draw"
        lines = [
            f"Δ: error minus the baseline's, in points, seed by seed ({_seeds(counts)}): below 0 is better. With ±, or "
            "in brackets, Student's interval, corrected for the number of comparisons: all of a table hold together "
            f"with 95 % (Bonferroni). From {FEWEST_SEEDS} seeds on better or worse is said where it excludes 0; else "
            "the two are not separated (n. s.), with about how many seeds would separate them with a probability of "
            f"80 %, if difference and spread are these. Over {over}."
        ]
        if self.planned:
            pairs = "; ".join(f"{row.title} − {base.title}" for row, base in self.planned)
            alone = not _others(self.baselines, self.planned)
            shared = "" if alone else ", and half of the 5 % are theirs, the other half all others'"
            lines.append(f"Planned{shared}: {pairs}.")
        if PASSES in self.kinds:
            low, high = SAME
            lines.append(
                f"At equal passes, or seconds: from {1 - low:.0%} less to {high - 1:.0%} more than the row's; a row "
                "without such a run of SGD has no entry."
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
                "verdict": each.verdict,
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
    verdict = f": {each.verdict}" if each.verdict else ""
    return f"{signed(each.mean)} {interval(each)}{verdict}{more_seeds(each)}"


def in_short(each: Paired | None) -> str:
    """The same for a narrow column: the interval's half width, and "n. s." for not separated."""
    if each is None or len(each.differences) < 2:
        return difference(each)
    if each.verdict != "not separated":
        return f"{difference(each)} {each.verdict or ''}".rstrip()
    return f"{difference(each)} n. s." + (f" ({_rounded(each.seeds_needed, '> ')})" if each.seeds_needed else "")


def difference(each: Paired | None) -> str:
    """A difference with half of its corrected interval; of fewer seeds than a verdict takes, by itself."""
    if each is None:
        return "–"
    if len(each.differences) < FEWEST_SEEDS:
        return signed(each.mean)
    low, high = each.corrected_interval
    return f"{signed(each.mean)} ± {(high - low) / 2:.2f}"


def interval(each: Paired) -> str:
    """The corrected interval."""
    low, high = each.corrected_interval
    return f"({signed(low)} to {signed(high)})"


def more_seeds(each: Paired) -> str:
    """About how many seeds would separate what these do not."""
    if each.separated or not each.seeds_needed:
        return ""
    return f", {_rounded(each.seeds_needed, 'more than ', 'about ')} seeds would"


def signed(value: float) -> str:
    """A difference in points, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _others(baselines: Mapping[str, Mapping[Row, Row]], planned: Sequence[Pair]) -> list[Pair]:
    """The comparisons that were not planned, each once."""
    pairs = distinct(pair for of_kind in baselines.values() for pair in of_kind.items())
    return [pair for pair in pairs if pair not in planned]


def _errors(pairs: Iterable[Pair]) -> dict[Pair, tuple[dict[int, float], dict[int, float]]]:
    """Those that have a seed in common."""
    return {(row, base): (row.errors, base.errors) for row, base in pairs if row.errors.keys() & base.errors.keys()}


def _rounded(seeds: int, more: str, about: str = "") -> str:
    """Numbers of seeds beyond a hundred say no more than that."""
    return f"{more}{MANY_SEEDS}" if seeds > MANY_SEEDS else f"{about}{seeds}"


def _seeds(counts: Sequence[int]) -> str:
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}
