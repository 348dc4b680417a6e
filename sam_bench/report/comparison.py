"""Rows of a study less a baseline, seed by seed, and what can be said of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sam_bench.report.stats import Paired, compare
from sam_bench.report.table import markdown


def comparisons(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], baselines: Sequence[str]
) -> dict[str, dict[str, Paired]]:
    """By baseline, every other row's comparison with it, of the finished runs' test errors.

    Args:
        rows: the records of each row, by its title; one a seed.

    Raises:
        KeyError: a baseline is none of the rows.
        ValueError: a row has no seed in common with a baseline.
    """
    errors = {
        title: {record["seed"]: record["test_error"] for record in records if record["status"] == "finished"}
        for title, records in rows.items()
    }
    return {baseline: compare(errors, baseline) for baseline in baselines}


def comparison_as_markdown(found: Mapping[str, Mapping[str, Paired]]) -> str:
    """A column for each baseline, with differences, their corrected intervals and verdicts, and what these are."""
    titles = list(dict.fromkeys(title for of_baseline in found.values() for title in of_baseline))
    cells = [[title, *(_cell(of_baseline.get(title)) for of_baseline in found.values())] for title in titles]
    counts = sorted({len(each.differences) for of_baseline in found.values() for each in of_baseline.values()})
    about = (
        f"Points of test error less the baseline's, seed by seed ({' or '.join(map(str, counts))} seeds): below 0 is "
        "better. In brackets Student's interval, corrected for the number of comparisons with that baseline "
        "(Bonferroni, 95 % for all together). Better or worse is said where it excludes 0; else about how many seeds "
        "would separate the two with a probability of 80 %, if difference and spread are these."
    )
    return f"{markdown(['', *(f'less {baseline}' for baseline in found)], cells)}\n\n{about}\n"


def comparison_as_frame(found: Mapping[str, Mapping[str, Paired]]) -> pd.DataFrame:
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
        for baseline, of_baseline in found.items()
        for title, each in of_baseline.items()
    )
    return frame.round(6)


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _cell(each: Paired | None) -> str:
    if each is None:
        return "–"
    low, high = each.corrected_interval
    return f"{each.mean:+.2f} ({low:+.2f} to {high:+.2f}): {each.verdict}".replace("-", "−")
