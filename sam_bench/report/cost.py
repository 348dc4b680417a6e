"""What rows cost: from a benchmark, in which nothing else was running, rather than from the seconds of the runs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from sam_bench.report.rows import Row


class Cost:
    """The seconds that a row's training takes, in those of SGD's passes.

    Args:
        benchmarks: what `make bench` has written, the ones to be preferred first.
    """

    def __init__(self, benchmarks: Iterable[Mapping[str, Any]] = ()):
        self.per_pass: dict[tuple[str, str], float] = {}
        """A pass of a method on a network over one of SGD's, by network and method."""
        for benchmark in benchmarks:
            for comparison in benchmark["comparisons"]:
                if comparison["question"] == "method":
                    self._take(comparison)

    @classmethod
    def read(cls, folder: Path) -> "Cost":
        """Take all benchmarks in a folder; the first in the order of their names has a measurement first."""
        return cls(json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))

    def is_measured(self, row: Row) -> bool:
        """Whether a benchmark has the row's method on its network."""
        return row.method == "sgd" or self._key(row) in self.per_pass

    def __call__(self, row: Row) -> float:
        """Return how many passes of SGD take as long; a method that was not measured is taken for its passes alone."""
        return row.means["passes"] * self.per_pass.get(self._key(row), 1.0)

    def _key(self, row: Row) -> tuple[str, str]:
        model = row.config["model"]
        return model.get("arch") or model["name"], row.method

    def _take(self, comparison: Mapping[str, Any]) -> None:
        ours = {
            result["case"]["method"]: result["turns"] for result in comparison["results"] if result["case"]["method"]
        }
        for method, turns in ours.items():
            if method != "sgd":
                ratios = [
                    turn["seconds"] / (turn["passes"] * of_sgd["seconds"])
                    for turn, of_sgd in zip(turns, ours["sgd"], strict=True)
                ]
                self.per_pass.setdefault((comparison["model"], method), median(ratios))
