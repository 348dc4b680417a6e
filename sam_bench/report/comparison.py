"""Rows of a study less a baseline, seed by seed, and what can be said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sam_bench.report.stats import Paired, compare
from sam_bench.report.table import markdown


@dataclass(frozen=True)
class Comparison:
    """What a study finds.

    Args:
        titles: of the rows, in their order.
        found: by baseline, every other row's comparison with it, by title; without those that have no finished run of
            a seed of which the baseline has one too.
        diverged: how many runs of a row came to nothing, by title, of those of which some did.
    """

    titles: tuple[str, ...]
    found: dict[str, dict[str, Paired]]
    diverged: dict[str, int]

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Mapping[str, Any]]], baselines: Sequence[str]) -> "Comparison":
        """Compare the test errors of finished runs.

        Args:
            rows: the records of each row, one a seed, by the row's title.

        Raises:
            KeyError: a baseline is none of the rows.
        """
        errors = {
            title: {record["seed"]: record["test_error"] for record in records if record["status"] == "finished"}
            for title, records in rows.items()
        }
        found = {}
        for baseline in baselines:
            comparable = {title: each for title, each in errors.items() if each.keys() & errors[baseline].keys()}
            found[baseline] = compare(comparable, baseline) if comparable else {}
        lost = {title: len(records) - len(errors[title]) for title, records in rows.items()}
        return cls(tuple(rows), found, {title: count for title, count in lost.items() if count})

    def as_markdown(self) -> str:
        """A column for each baseline, with differences, their corrected intervals and verdicts, and what these are."""
        cells = [
            [title, *(_cell(of_baseline.get(title)) for of_baseline in self.found.values())] for title in self.titles
        ]
        counts = sorted({len(each.differences) for of_one in self.found.values() for each in of_one.values()})
        about = (
            f"Points of test error less the baseline's, seed by seed ({' or '.join(map(str, counts))} seeds): below 0 "
            "is better. In brackets Student's interval, corrected for the number of comparisons with that baseline "
            "(Bonferroni, 95 % for all together). Better or worse is said where it excludes 0; else about how many "
            "seeds would separate the two with a probability of 80 %, if difference and spread are these."
        )
        if self.diverged:
            lost = ", ".join(f"{title} {count}" for title, count in self.diverged.items())
            about += f" Runs that diverged, and are left out: {lost}."
        return f"{markdown(['', *(f'less {baseline}' for baseline in self.found)], cells)}\n\n{about}\n"

    def as_frame(self) -> pd.DataFrame:
        """A row for each comparison, to six decimals."""
        frame = pd.DataFrame(
            {
                "row": title,
                "baseline": baseline,
                "seeds": len(each.differences),
                "difference": each.mean,
                **_ends("interval", each.interval),
                **_ends("corrected", each.corrected_interval),
                **_ends("bootstrap", each.bootstrap_interval()),
                "p": each.p,
                "holm_p": each.adjusted_p,
                "probability_better": each.better,
                "verdict": each.verdict,
            }
            for baseline, of_baseline in self.found.items()
            for title, each in of_baseline.items()
        )
        return frame.round(6)


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _cell(each: Paired | None) -> str:
    if each is None:
        return "–"
    if len(each.differences) < 2:
        return f"{each.mean:+.2f}".replace("-", "−")
    low, high = each.corrected_interval
    return f"{each.mean:+.2f} ({low:+.2f} to {high:+.2f}): {each.verdict}".replace("-", "−")
